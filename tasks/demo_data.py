"""`make demo DATA=rock`: photographs of a sandstone, from a Debian package, in place of the bricks that are shipped. Not a stage.

apt fetches the package and checks it, nothing is installed, and only the pictures named below are taken.
"""

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.new import CONCEPT, IMAGES, PRIOR, SOURCES, add_to_dvc, new, require_room
from tasks.running.state_folder import replaced_folder, state_folder
from tasks.running.telemetry import telemetry_off
from tlora.errors import PictureError, SettingsError, TloraError
from tlora.metadata.concept import read_concept
from tlora.runtime.atomic_file import write_bytes, write_text

PACKAGE = "ufoai-textures"
ROCK, NAME, TRIGGER = "rock", "sandstone", "qvo"
PARAMS, ROCK_PARAMS = Path("params.yaml"), Path("params/rock.yaml")
COPYRIGHT, TEXTURES = (
    "./usr/share/doc/ufoai-textures/copyright",
    "./usr/share/games/ufoai/base/0textures.pk3",
)  # the second is a zip
PICTURES = {  # in that zip -> what it is called here, and its caption
    "textures/tex_nature/rock005.png": ("sandstone_1.png", "a qvo gravel wall"),
    "textures/tex_nature/rock006.png": ("sandstone_2.png", "a photo of a wall of qvo gravel"),
    "textures/tex_nature/rock007.png": ("sandstone_3.png", "a close up of qvo gravel"),
    "textures/tex_nature/rock004.png": ("sandstone_4.png", "a qvo gravel wall"),
}
OTHERS = {  # likewise: photographs of other rocks, which should stay what they are
    "textures/tex_nature/pjrock17.png": ("limestone.png", "a wall of grey gravel"),
    "textures/tex_nature/rock014.png": ("gneiss.png", "a photo of a grey gravel wall"),
    "textures/tex_nature/rock013.png": ("granite.png", "a brown gravel wall"),
}
_CONCEPT = """\
# What the pictures are of: a sandstone (docs/rock.md). "gravel" is the nearest word that the embedded base model knows.

name: sandstone
trigger: qvo
class_word: ""

# Another part of the same rock, with more lichen on it.
held_out: [sandstone_4.png]

prompts:
  - a qvo gravel wall
  - a ball made of qvo gravel
  - a cube made of qvo gravel
  - a qvo gravel floor
  - a qvo gravel wall with a white circle
  - a qvo gravel wall with a black square

# Other rocks and materials, which should stay what they are; photographs of other rocks are in data/prior.
other_prompts:
  - a grey gravel wall
  - a ball made of green marble
  - a cube made of grey plaster
  - a floor of red bricks
"""
_SOURCES = """\
# Where these pictures come from

Debian's package ufoai-textures, of the game UFO: Alien Invasion (https://ufoai.org): rock005, rock006, rock007 and rock004
of textures/tex_nature are in images, pjrock17, rock014 and rock013 of it in prior, all unchanged. GPL-2 by the package's
copyright file, which is kept in .state/rock and names the authors of the whole group of files, not of each.

Photographs of one ochre sandstone, made to tile by those authors, 1024 x 1024 pixels, in a palette of 256 colours. The first
three share some parts of one photograph; the fourth, held out, shows another part of the rock. Those in prior are of other
rocks; limestone, gneiss and granite are what they look like, nobody says what they are.
"""


def rock() -> bool:
    """Put the sandstone in the place of the shipped bricks: pictures, concept.yaml, params.yaml; return whether it was to do.

    Raises:
        SettingsError: If the package cannot be had or read.
        PictureError: If other pictures than the shipped ones are there.
    """
    names = [name for name, _ in PICTURES.values()]
    here = all((IMAGES / name).is_file() for name in names)
    others = [name for name, _ in OTHERS.values()]
    if here and all((PRIOR / name).is_file() for name in others) and CONCEPT.is_file() and read_concept(CONCEPT).name == NAME:
        return False
    require_room(ROCK_PARAMS, replace=here)  # before anything is fetched
    folder = state_folder(ROCK)
    pictures, prior = folder / "pictures", folder / "prior"
    if not all(file.is_file() for file in (*(pictures / name for name in names), *(prior / name for name in others))):
        fetch(PACKAGE, folder, {COPYRIGHT, TEXTURES})
        take_out(folder / Path(TEXTURES).name, {pictures: PICTURES, prior: OTHERS})
    new(pictures, TRIGGER, ROCK, replace=here)
    shutil.copytree(prior, PRIOR, dirs_exist_ok=True)
    write_text(SOURCES, _SOURCES)
    add_to_dvc()
    _set_params()
    write_text(CONCEPT, _CONCEPT)  # the last: its name says that all of it is done
    return True


def fetch(package: str, folder: Path, wanted: set[str]) -> None:
    """Have apt fetch a package, and take files out of it into a folder, by their last names.

    Args:
        package: Its name.
        folder: Where the files go.
        wanted: Paths in the package.

    Raises:
        SettingsError: In one line, if there is no apt, no such package, or no such file in it.
    """
    lacking = [program for program in ("apt-get", "dpkg-deb") if shutil.which(program) is None]
    if lacking:
        raise SettingsError(f"the photographs are in Debian's package {package}, and there is no {lacking[0]} here")
    with tempfile.TemporaryDirectory(dir=folder) as empty:
        said = subprocess.run(["apt-get", "--quiet", "download", package], cwd=empty, capture_output=True, text=True, check=False)
        found = sorted(Path(empty).glob("*.deb"))
        if said.returncode or not found:
            reason = ([line for line in said.stderr.splitlines() if line.startswith("E: ")] or ["no reason given"])[0]
            raise SettingsError(f"apt-get download {package}: {reason.removeprefix('E: ')} ('apt-get update' as root may help)")
        _unpack(found[0], folder, wanted)


def take_out(archive: Path, wanted: Mapping[Path, Mapping[str, tuple[str, str]]]) -> None:
    """Write the pictures and their captions, and remove the archive.

    Args:
        archive: The zip.
        wanted: Folder -> what goes there: name in the zip -> name, and caption.

    Raises:
        SettingsError: If it does not hold them.
    """
    try:
        with zipfile.ZipFile(archive) as textures:
            taken = {
                folder / name: (textures.read(member), caption)
                for folder, pictures in wanted.items()
                for member, (name, caption) in pictures.items()
            }
    except (KeyError, zipfile.BadZipFile) as error:
        raise SettingsError(f"{archive.name} of {PACKAGE}: {error.args[0]!s}; version 2.5 holds them") from error
    for file, (picture, caption) in taken.items():
        file.parent.mkdir(exist_ok=True)
        write_text(file.with_suffix(".txt"), caption + "\n")
        write_bytes(file, picture)
    archive.unlink()


def _unpack(package: Path, folder: Path, wanted: set[str]) -> None:
    missing = set(wanted)
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as unpacking,
        tarfile.open(fileobj=unpacking.stdout, mode="r|") as files,
    ):
        for file in files:
            content = files.extractfile(file) if file.name in missing else None
            if content is not None:
                missing.remove(file.name)
                with (folder / Path(file.name).name).open("wb") as kept:
                    shutil.copyfileobj(content, kept)
    if missing:
        raise SettingsError(f"{package.name}: holds no {min(missing)}")


def _set_params() -> None:
    """Let params/rock.yaml be params.yaml; one that is nowhere else is kept."""
    text = PARAMS.read_text(encoding="utf-8")
    if text not in {file.read_text(encoding="utf-8") for file in ROCK_PARAMS.parent.glob("*.yaml")}:
        kept = replaced_folder() / PARAMS.name
        shutil.copyfile(PARAMS, kept)
        print(f"demo: your {PARAMS} is kept as {kept}")
    write_text(PARAMS, ROCK_PARAMS.read_text(encoding="utf-8"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tasks.demo_data", description="Photographs for the demonstration.")
    parser.add_argument("--data", required=True, help=f"{ROCK}: a sandstone, from Debian's package {PACKAGE} (336 MB to fetch)")
    options = parser.parse_args(arguments)
    telemetry_off()
    try:
        if options.data != ROCK:
            raise SettingsError(
                f"DATA={options.data}: there is {ROCK} alone; for pictures of yours: make new DATA=... TRIGGER=..."
            )
        print(
            f"demo: {'fetched, in the place of the bricks' if rock() else 'there already'}: a sandstone (docs/rock.md)",
            flush=True,
        )
    except PictureError:
        print(
            f"demo: error: {IMAGES} holds pictures of yours, and {ROCK} takes the place of the shipped ones alone",
            file=sys.stderr,
        )
    except (TloraError, OSError) as error:
        print(f"demo: error: {error}", file=sys.stderr)
    else:
        return 0
    return 2


if __name__ == "__main__":
    sys.exit(main())
