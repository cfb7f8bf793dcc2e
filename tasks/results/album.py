"""The pictures of an evaluation as files, so that pages can show them again without drawing them again.

A small picture is kept exactly. A large one is kept as good as eyes need it, since twenty checkpoints of a thousand pixels
would be gigabytes of PNG.
"""

import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tlora.errors import CheckpointError
from tlora.runtime.atomic_file import write_json

EXACT_SIDE = 128  # pixels; up to here a picture is kept bit by bit
QUALITY = 90
SCALES = "scales"  # the group of one checkpoint at several strengths, the base first, at the first seed alone
DISTILLED = "distilled"  # the group that is drawn on a distilled model: it bare first, at the first seed alone
CHECKPOINTS = "checkpoints"  # the group that is drawn at full strength: the base first, then a column for each checkpoint
_INDEX = "album.json"
Rows = Sequence[Sequence[Image.Image | None]]  # for each prompt, a picture per seed; None where it was not drawn


@dataclass(frozen=True)
class Album:
    """Where the pictures are.

    Args:
        prompts: What was drawn.
        seeds: From which noise, the same for each prompt.
        groups: Group -> column -> for each prompt, a file per seed; None where it was not drawn. A group is shown side by side.
    """

    prompts: Sequence[str]
    seeds: Sequence[int]
    groups: Mapping[str, Mapping[str, Sequence[Sequence[Path | None]]]]


def write_album(folder: Path, groups: Mapping[str, Mapping[str, Rows]], prompts: Sequence[str], seeds: Sequence[int]) -> None:
    """Write pictures and their index in place of what was there.

    Args:
        folder: Where.
        groups: Group -> column -> pictures; the names become folders.
        prompts: One per row.
        seeds: One per picture of a row; a row may be of the first of them alone.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for group, columns in groups.items():
        for column, rows in columns.items():
            for p, row in enumerate(rows):
                for seed, picture in zip(seeds[: len(row)], row, strict=True):
                    if picture:
                        _save(picture, folder / group / column / _name(p, seed))
    index = {"prompts": list(prompts), "seeds": list(seeds), "groups": {name: list(columns) for name, columns in groups.items()}}
    write_json(folder / _INDEX, index)


def read_album(folder: Path) -> Album:
    """Return what `write_album` wrote; columns that have no folder (any more) are left out.

    Raises:
        CheckpointError: If its index is missing or not what `write_album` writes.
    """
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        prompts, seeds = [str(prompt) for prompt in index["prompts"]], [int(seed) for seed in index["seeds"]]
        columns = {str(group): [str(name) for name in names] for group, names in index["groups"].items()}
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder / _INDEX}: not what evaluate writes ({error!r}): run evaluate again") from error
    return Album(
        prompts,
        seeds,
        {
            group: {
                name: [_row(folder / group / name, p, seeds) for p in range(len(prompts))]
                for name in names
                if (folder / group / name).is_dir()
            }
            for group, names in columns.items()
        },
    )


def files_of(columns: Mapping[str, Sequence[Sequence[Path | None]]]) -> list[Path]:
    """Return the pictures of some columns that were drawn."""
    return [file for rows in columns.values() for row in rows for file in row if file]


def are_small(files: Sequence[Path]) -> bool:
    """Whether pictures are so small that they are kept exactly; all of an album are of one size."""
    with Image.open(files[0]) as first:
        return max(first.size) <= EXACT_SIDE


def parts_of_album(folder: Path, columns: Collection[str], into: str) -> dict[str, Path]:
    """Return the index and the named columns of every group, each by the folder that it goes to when the album is copied.

    Args:
        folder: The album.
        columns: Which columns; the others are left behind.
        into: Where the album goes.
    """
    groups = read_album(folder).groups.items()
    kept = [Path(group) / name for group, found in groups for name in found if name in columns]
    return {into: folder / _INDEX} | {f"{into}/{part.as_posix()}": folder / part for part in kept}


def _row(folder: Path, prompt: int, seeds: Sequence[int]) -> list[Path | None]:
    """Return the files of a prompt, one per seed, None where it was not drawn."""
    return [file if file.exists() else None for file in (folder / _name(prompt, seed) for seed in seeds)]


def _name(prompt: int, seed: int) -> str:
    return f"p{prompt:02d}_seed{seed}.webp"


def _save(picture: Image.Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.partial")
    picture.save(temporary, format="WEBP", lossless=max(picture.size) <= EXACT_SIDE, quality=QUALITY, method=2)
    os.replace(temporary, file)
