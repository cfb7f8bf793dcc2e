"""What people drop on the page: moved out of Gradio's folder into one that `make new` reads, under nothing but its own name."""

import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from tasks.running.state_folder import state_folder
from tlora.errors import PictureError
from tlora.runtime.disk import require_writable

LARGEST = "512mb"  # of one file
MOST_FILES = 5000


def uploads_folder() -> Path:
    """Return where Gradio keeps what arrives; nothing else is taken from the page."""
    return state_folder("studio", "uploads")


def collect(files: Sequence[str]) -> Path:
    """Move files into a fresh folder and return it.

    Raises:
        PictureError: If there are none, too many, two of one name, or one that did not come from the page.
    """
    if not files:
        raise PictureError("drop your pictures first, with their captions (.txt of the same name) if you have them")
    if len(files) > MOST_FILES:
        raise PictureError(
            f"{len(files)} files at once, {MOST_FILES} at most: 'make new DATA=folder TRIGGER=word' takes any number"
        )
    root, folder = uploads_folder().resolve(), state_folder("studio", "incoming", secrets.token_hex(6))
    require_writable(folder)
    for file in map(Path, files):
        target = folder / file.name
        if not file.resolve().is_relative_to(root) or not file.is_file() or file.is_symlink():
            raise PictureError(f"{file.name}: was not uploaded here: drop it again")
        if target.exists():
            raise PictureError(f"{file.name}: dropped twice, or two pictures have one name: rename one of them")
        shutil.copyfile(file, target)
    return folder


def forget(folder: Path) -> None:
    """Remove what was collected: `make new` has copied it."""
    shutil.rmtree(folder, ignore_errors=True)
