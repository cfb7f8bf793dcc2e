"""`make new`: a user's own pictures take the place of the ones that are there. Not a stage: it fills what the stages read.

Nothing of the user's is touched: pictures are copied, and what stood here before is kept under `.state/replaced`.
"""

import argparse
import fcntl
import hashlib
import json
import re
import shutil
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tasks.dvc_command import run_dvc
from tasks.running.state_folder import replaced_folder, state_folder
from tasks.validate.other_captions import OtherCaptions, plain_name, read_other_captions
from tlora.errors import PictureError, SettingsError, TloraError
from tlora.metadata.concept import parse_concept
from tlora.pictures.files import MASK_ENDING, SUFFIXES, caption_path, list_pictures, mask_path
from tlora.runtime.atomic_file import write_text
from tlora.runtime.settings import read_mapping
from tlora.runtime.yaml_text import NotYamlError, parse_yaml

DATA = Path("data")
IMAGES = DATA / "images"
PRIOR = DATA / "prior"  # by convention: pictures of other things (docs/preservation.md)
SOURCES = DATA / "SOURCES.md"
CONCEPT = Path("concept.yaml")
DIGEST = Path("data.dvc")
SHIPPED = Path("shipped/files/md5")  # DVC's layout of the remote that comes with the repository
MOST_LOOKED_AT = 10_000  # files below a folder that holds no pictures itself; somebody may have given their whole disk

_MOST_UNUSED = 5  # of the files that are named with the reason

_CAPTION = "a photo of {trigger}"
_CONCEPT = """\
# What the pictures are of. Stays as it is when the base model is switched.

name: "{name}" # lower-case letters, digits and hyphens; part of the registered model's name, tlora-<base>-<name>
trigger: {trigger} # the word in the captions that comes to mean these pictures

# Never trained on, so that learning can be told from memorising: a share drawn by the pictures' content, at least one, or
# names, such as [wall_07.jpg, wall_12.jpg].
held_out: {{fraction: 0.2, seed: 0}}

# What evaluation draws. The first is near the captions, the others ask for what no training picture shows: make them yours.
prompts:
  - a photo of {trigger}
  - a {trigger} wall
  - a {trigger} floor
  - a ball made of {trigger}
  - a cube made of {trigger}
  - a {trigger} wall with a white circle
"""
_SOURCES = """\
# Where these pictures come from

{count} pictures, copied from `{source}`.

- Who took them, and where:
- Licence, or whose permission:
- What was done to them (cropped, retouched, scaled):
- Who or what can be recognised on them:
"""


@dataclass(frozen=True)
class Copied:
    """What was brought in.

    Args:
        pictures: How many.
        captions_written: For how many the stock caption was written, for want of another.
        captions_read: How many captions came from other trainers' files, by name or pattern of those.
        unused: Why a file of captions was not used, by its name.
        left_behind: What else in the folder was not brought in.
    """

    pictures: int
    captions_written: int
    captions_read: Mapping[str, int]
    unused: Mapping[str, str]
    left_behind: tuple[str, ...]


def new(source: Path, trigger: str, name: str = "", *, replace: bool = False) -> Copied:
    """Fill data/ and concept.yaml of the working folder with a user's pictures.

    Args:
        source: Folder of pictures, with or without captions: same-name .txt files, or as other trainers write them.
        trigger: The word that comes to mean them.
        name: Short name of the concept, by default made of the trigger word.
        replace: Whether pictures that are there already make way; they are kept under `.state/replaced`.

    Raises:
        PictureError: If there are fewer than two pictures, or others than the shipped ones are there already.
        SettingsError: If trigger or name cannot be used.
    """
    concept = _render_concept(name or _name_of(trigger), trigger)
    pictures = _list_source(source)
    if len(pictures) < 2:
        raise PictureError(f"{source}: holds one picture, and 2 are needed, one of them held out: add one, or cut it in two")
    require_room(source, replace=replace)
    arriving = state_folder("arriving")
    shutil.rmtree(arriving)
    arriving.mkdir()
    others = read_other_captions(source, pictures)
    written = sum(_copy(picture, arriving, trigger, others) for picture in pictures)
    _put_aside()
    DATA.mkdir(exist_ok=True)
    shutil.move(arriving, IMAGES)
    write_text(SOURCES, _SOURCES.format(count=len(pictures), source=source))
    write_text(CONCEPT, concept)
    read = Counter(_pattern(picture, caption.file) for picture, caption in others.by_picture.items())
    return Copied(len(pictures), written, read, others.unused, _left_behind(source, pictures, others))


def require_room(source: Path, *, replace: bool) -> None:
    """Refuse where others' pictures would have to make way, or where these lie already.

    Raises:
        PictureError: In one line.
    """
    if IMAGES.resolve() in (source.resolve(), *source.resolve().parents):
        raise PictureError(f"{source}: this is where the pictures go: give the folder that they come from")
    if IMAGES.exists() and any(IMAGES.iterdir()) and not replace and not _are_shipped():
        remedy = "to replace them add --replace (make new ... REPLACE=1); they are kept under .state"
        raise PictureError(f"{IMAGES}: holds pictures already: {remedy}")


def add_to_dvc() -> None:
    """Run `dvc add data`.

    Raises:
        SettingsError: With DVC's own words, if it refuses.
    """
    try:
        run_dvc("add", "--quiet", str(DATA))
    except SettingsError as error:
        raise SettingsError(f"the pictures are in place, but {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tasks.new", description="Start with your own pictures.")
    parser.add_argument(
        "--data",
        required=True,
        help="folder of pictures, with or without captions (.txt of the same name, or as other trainers write them)",
    )
    parser.add_argument("--trigger", required=True, help="a rare word that comes to mean them, such as matbrk")
    parser.add_argument("--name", default="", help="short name of the concept, by default made of the trigger word")
    parser.add_argument("--replace", action="store_true", help="let pictures that are there already make way")
    options = parser.parse_args(arguments)
    try:
        if not options.data:
            raise PictureError("--data: give the folder of your pictures: make new DATA=~/bricks TRIGGER=matbrk")
        with _alone():
            copied = new(Path(options.data).expanduser(), options.trigger, options.name, replace=options.replace)
            add_to_dvc()
    except TloraError as error:
        reason = str(error)
    except OSError as error:
        reason = f"{error.filename or ''}: {error.strerror or error}".removeprefix(": ")
    else:
        print(_next_steps(copied, options.trigger))
        return 0
    print(f"new: error: {reason}", file=sys.stderr)
    return 2


@contextmanager
def _alone() -> Iterator[None]:
    """Wait until nobody else replaces the pictures: what one copies, another would mistake for its own."""
    with (state_folder() / "new.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _render_concept(name: str, trigger: str) -> str:
    """Return concept.yaml, having read it back: a trigger such as `true` or `a: b` would not come back as it went in."""
    text = _CONCEPT.format(name=name, trigger=trigger)
    try:
        read_back = parse_concept(parse_yaml(text), "new").trigger
    except (NotYamlError, SettingsError) as error:
        raise SettingsError(f"--trigger {trigger!r}, --name {name!r}: {error}") from error
    if read_back != trigger:
        raise SettingsError(f"--trigger {trigger!r}: use letters and digits, such as matbrk")
    return text


def _name_of(trigger: str) -> str:
    if not trigger.strip():
        raise SettingsError(
            "--trigger: give the word that comes to mean your pictures, such as matbrk (make new ... TRIGGER=matbrk)"
        )
    name = re.sub(r"[^a-z0-9]+", "-", trigger.lower()).strip("-")
    if not name:
        raise SettingsError(f"--trigger {trigger!r}: makes no name of a-z and 0-9: give one, such as --name bricks (NAME=bricks)")
    return name


def _list_source(source: Path) -> list[Path]:
    """List the pictures of the user's folder, or say where they are instead.

    Raises:
        PictureError: If there is no such folder, or it holds no pictures.
    """
    if not source.is_dir():
        raise PictureError(
            f"{source}: {'not a folder' if source.exists() else 'no such folder'}: give the one with your pictures"
        )
    try:
        return list_pictures(source)
    except PictureError:
        some = islice(source.rglob("*"), MOST_LOOKED_AT)
        below = {p.parent.relative_to(source).as_posix() for p in some if p.suffix.lower() in SUFFIXES}
        if not below - {"."}:
            raise
        shown = ", ".join(sorted(below)[:3]) + (" ..." if len(below) > 3 else "")
        raise PictureError(f"{source}: its pictures are in subfolders ({shown}): give one of those, or move them up") from None


def _are_shipped() -> bool:
    """Whether data/ is file for file what the repository ships, which is nobody's work and can be had again."""
    if not DIGEST.is_file():
        return False
    (out,) = read_mapping(DIGEST, "what DVC writes", "").get("outs") or [{}]
    digest = str(out.get("md5", ""))
    listing = SHIPPED / digest[:2] / digest[2:]
    if not digest or not listing.is_file():
        return False
    shipped = {entry["relpath"]: entry["md5"] for entry in json.loads(listing.read_text(encoding="utf-8"))}
    here = {path.relative_to(DATA).as_posix(): path for path in DATA.rglob("*") if path.is_file()}
    return here.keys() == shipped.keys() and all(
        hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == shipped[name] for name, path in here.items()
    )


def _copy(picture: Path, folder: Path, trigger: str, others: OtherCaptions) -> bool:
    """Copy a picture and its caption, and return whether the stock caption had to be written."""
    target = folder / unicodedata.normalize("NFC", picture.name)
    if not picture.is_file():
        raise PictureError(f"{picture}: it is a broken link or no file: repair or remove it, then run this again")
    if target.exists():
        raise PictureError(f"{picture}: another picture has the same name, in another Unicode form: rename one of them")
    shutil.copyfile(picture, target)  # follows symbolic links: the data must not depend on where they lead
    mask = mask_path(picture)
    if mask:
        shutil.copyfile(mask, target.with_name(f"{target.stem}{MASK_ENDING}{mask.suffix}"))
    caption = caption_path(picture)
    if caption.is_file():
        shutil.copyfile(caption, target.with_suffix(".txt"))
        return False
    if target.with_suffix(".txt").exists():
        return False  # of another picture of this name, wall.jpg beside wall.png: they share it, and validation says so
    other = others.by_picture.get(picture.name)
    text = other.text if other else _CAPTION.format(trigger=trigger)
    target.with_suffix(".txt").write_text(text + "\n", encoding="utf-8")
    return other is None


def _put_aside() -> None:
    """Keep what stands where the new data go, and what belongs to the old: concept.yaml, prior pictures."""
    standing = [path for path in (SOURCES, CONCEPT) if path.exists()]
    standing += [folder for folder in (IMAGES, PRIOR) if folder.is_dir() and any(folder.iterdir())]
    if standing:
        kept = replaced_folder()
        for path in standing:
            shutil.move(path, kept / path.name)
        print(f"new: what was there is kept in {kept}")
    shutil.rmtree(IMAGES, ignore_errors=True)


def _pattern(picture: str, file: str) -> str:
    """Return `*.caption` for wall.caption of wall.jpg, and a table's own name."""
    stem = plain_name(Path(picture).stem)
    return f"*{file[len(stem) :]}" if plain_name(file).startswith(f"{stem}.") else file


def _left_behind(source: Path, pictures: Sequence[Path], others: OtherCaptions) -> tuple[str, ...]:
    """Return what is in the folder and was not brought in; hidden files and what was said of captions left out."""
    used = {path.name for picture in pictures for path in (picture, caption_path(picture), mask_path(picture)) if path}
    used |= {caption.file for caption in others.by_picture.values()} | set(others.unused)
    return tuple(sorted(p.name for p in source.iterdir() if p.name not in used and not p.name.startswith(".")))


def _next_steps(copied: Copied, trigger: str) -> str:
    lines = [f"new: {copied.pictures} pictures are in {IMAGES}, their digest is in data.dvc"]
    if copied.left_behind:
        shown = ", ".join(copied.left_behind[:5])
        lines.append(f"  left behind, for it is not read here: {shown}{' ...' if len(copied.left_behind) > 5 else ''}")
    lines += [f"  {count} captions were read from {files}" for files, count in sorted(copied.captions_read.items())]
    unused = sorted(copied.unused.items())
    lines += [f"  not used: {file}: {why}" for file, why in unused[:_MOST_UNUSED]]
    if len(unused) > _MOST_UNUSED:
        lines.append(f"  and {len(unused) - _MOST_UNUSED} more files of captions were not used")
    if copied.captions_written:
        lines.append(f"  {copied.captions_written} captions were missing and read {_CAPTION.format(trigger=trigger)!r} now:")
        lines.append(f"  say in each what the picture shows besides {trigger}")
    return "\n".join(
        [
            *lines,
            "Next:",
            "  1. read the captions in data/images/*.txt and the prompts in concept.yaml, and fill in data/SOURCES.md",
            "  2. if you changed anything: dvc add data",
            "  3. dvc repro validate, and look at reports/validate/report.html",
            "  4. dvc repro",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
