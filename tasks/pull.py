"""`make pull`: bring in the models that are shipped, and the data: shipped too, or kept where a team keeps its own. Not a stage.

A folder that is there is left alone, whatever is in it: it may hold somebody's own pictures. A marker tells those that an
interrupted pull left half full.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tasks.dvc_command import run_dvc
from tasks.running.telemetry import telemetry_off
from tlora.errors import SettingsError, TloraError
from tlora.runtime.atomic_file import write_text
from tlora.runtime.settings import read_mapping

REMOTE, STORE = "shipped", Path("shipped", "files", "md5")
DATA = Path("data.dvc")
MODELS = tuple(Path("models", f"{name}.dvc") for name in ("pocket-flux", "pocket-flux2", "pocket-clip", "pocket-judge"))
MARKER = Path(".state", "pulling")  # names the folders that are being filled


def pull() -> list[str]:
    """Fill the folders that are missing; return which.

    Raises:
        SettingsError: If what is not shipped cannot be had elsewhere; what is shipped is there then.
    """
    half = MARKER.read_text(encoding="utf-8").split() if MARKER.exists() else []
    files = [file for file in (DATA, *MODELS) if file.exists()]
    missing = [file for file in files if not file.with_suffix("").exists() or str(file) in half]
    shipped = [file for file in missing if _is_shipped(file)]
    _pull(shipped, "--remote", REMOTE)
    others = [file for file in missing if file not in shipped]
    try:
        _pull(others)
    except SettingsError as error:
        names = ", ".join(map(str, others))
        raise SettingsError(
            f"{names}: not shipped here, and not to be had from where it is kept ({error}): name your team's store"
            " with 'dvc remote add --default team ...' and run 'make pull' again"
        ) from error
    return [str(file.with_suffix("")) for file in missing]


def _pull(files: Sequence[Path], *options: str) -> None:
    if files:
        write_text(MARKER, "".join(f"{file}\n" for file in files))
        run_dvc("pull", "--quiet", *options, *map(str, files))
        MARKER.unlink()


def _is_shipped(file: Path) -> bool:
    """Whether the read-only remote beside the code holds what a .dvc file names."""
    digest = str(read_mapping(file, "a mapping, as DVC writes it", "")["outs"][0]["md5"])
    return (STORE / digest[:2] / digest[2:]).exists()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    argparse.ArgumentParser(prog="python -m tasks.pull", description=__doc__).parse_args(arguments)
    telemetry_off()
    try:
        if filled := pull():
            print(f"pull: {', '.join(filled)}")
    except (TloraError, OSError) as error:
        print(f"pull: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
