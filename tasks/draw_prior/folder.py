"""Prior pictures from a folder: which they are, and what is refused of them before anything is loaded."""

import re
from dataclasses import dataclass
from pathlib import Path

from tlora.errors import PictureError, SettingsError
from tlora.pictures.files import caption_path, list_pictures, read_caption

DATA = Path("data")  # what data.dvc versions
IMAGES = "images"  # below it, what is trained on


@dataclass(frozen=True)
class Captioned:
    """A picture of the folder and its caption."""

    path: Path
    caption: str


def list_prior_pictures(folder: Path, trigger: str, data: Path = DATA, most: int = 0) -> list[Captioned]:
    """Return the pictures of the folder with their captions, in the order of their names.

    Args:
        folder: As the setting names it.
        trigger: The word that none of the captions may hold.
        data: The folder that data.dvc versions: what lies elsewhere could change unseen.
        most: How many are taken; 0 takes all.

    Raises:
        SettingsError: If the folder does not lie below `data`, or holds what is trained on.
        PictureError: If it is missing or empty, a picture has no caption, or a caption holds the trigger word.
    """
    require_place(folder, data)
    try:
        paths = list_pictures(folder)
    except PictureError as error:
        raise PictureError(f"{error}: put pictures with captions there, or leave draw_prior.folder empty") from error
    return [Captioned(path, _caption(path, trigger)) for path in paths[: most or None]]


def require_place(folder: Path, data: Path = DATA) -> None:
    """Check that DVC sees what is in the folder, and that it is not what is learnt.

    Raises:
        SettingsError: If it does not lie below `data`, or is or lies in what is trained on.
    """
    place, versioned = folder.resolve(), data.resolve()
    images = versioned / IMAGES
    if versioned not in place.parents or images in (place, *place.parents):
        raise SettingsError(
            f"folder must be one below {data}, which data.dvc versions, and not in {data / IMAGES}, which is trained on:"
            f" got {str(folder)!r}, use {data / 'prior'}"
        )


def _caption(picture: Path, trigger: str) -> str:
    caption, file = read_caption(picture), caption_path(picture)
    if not caption:
        raise PictureError(f"{picture}: it has no caption: say what it shows in {file.name}, without the trigger word")
    if re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", caption, re.IGNORECASE):
        raise PictureError(
            f"{file}: a prior picture's caption holds the trigger word {trigger!r}, which would unlearn it: take it out"
        )
    return caption
