"""`make prune`: what has grown old and nothing points at: shown first, removed when told to.

Old are training states with their checkpoints, reusable cache items, and worktrees that a killed run left behind. Unreferenced
are objects in DVC's cache that no commit, no branch and no worktree names. What an alias in the registry points at stays: its
training state, and DVC's cache as a whole for as long as no commit names the data that it was trained on.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.reasons import read_settings
from flows.worktree import git
from tasks.dvc_command import run_dvc
from tasks.registry.versions import PinnedVersion, pinned_versions
from tasks.running.state_folder import state_folder
from tasks.tracking.store import explained_failures, open_store
from tlora.errors import SettingsError, TloraError
from tlora.metadata.digests import digest_of

DATA = Path("data.dvc")
FINGERPRINT = "fingerprint.json"


@dataclass(frozen=True)
class Old:
    """Something that may go: what it is, where, and its bytes."""

    what: str
    path: Path
    size: int


def find_old(pinned: Sequence[PinnedVersion], days: float) -> list[Old]:
    """Return what in `.state` is older than so many days and nothing points at.

    Args:
        pinned: The versions that aliases point at.
        days: What was touched since then stays.
    """
    before = time.time() - 86400 * days
    made = {(version.data, version.code, version.base_revision, version.params) for version in pinned}
    trained = sorted((path for path in state_folder("train").iterdir() if path.is_dir()), key=_touched)
    old = [
        Old("training state", path, _size(path)) for path in trained[:-1] if _touched(path) < before and _origin(path) not in made
    ]
    items = (path for path in state_folder("cache").rglob("*") if path.is_file() and path.stat().st_mtime < before)
    old += [Old("cached item", path, path.stat().st_size) for path in sorted(items)]
    left = (path for path in state_folder("worktrees").iterdir() if _touched(path) < before)
    return old + [Old("worktree of a run", path, _size(path)) for path in sorted(left)]


def remove(old: Old) -> None:
    """Remove it."""
    if old.what == "worktree of a run":
        shutil.rmtree(old.path)
        git("worktree", "prune")
    elif old.path.is_dir():
        shutil.rmtree(old.path)
    else:
        old.path.unlink(missing_ok=True)


def collect_unreferenced(pinned: Sequence[PinnedVersion], *, dry: bool) -> str:
    """Let DVC remove from its cache what no commit, branch or worktree names, and return what it says.

    Raises:
        SettingsError: If an alias points at a version whose data no commit names.
    """
    for version in pinned:
        if version.data_dvc and not _is_named(version.data_dvc):
            raise SettingsError(
                f"{version.model}, version {version.number} ({version.aliases}), was trained on data that no commit names"
                f" ({version.data_dvc}): commit its data.dvc, or move the alias; DVC's cache is left as it is"
            )
    listed = git("worktree", "list", "--porcelain").splitlines()
    trees = [line.removeprefix("worktree ") for line in listed if line.startswith("worktree ")]
    others = [tree for tree in trees if Path(tree) != Path.cwd() and Path(tree).exists()]
    projects = ["--projects", *others] if others else []
    return run_dvc("gc", "--workspace", "--all-commits", *(["--dry"] if dry else ["--force"]), *projects)


def _is_named(digest: str) -> bool:
    """Whether data.dvc says so, here or in any commit of any branch."""
    return digest in DATA.read_text(encoding="utf-8") or bool(git("log", "--all", "--format=%H", f"-S{digest}", "--", str(DATA)))


def _origin(folder: Path) -> tuple[str, str, str, str]:
    """Return what a training state was made from, as a version's tags say it."""
    try:
        fields = json.loads((folder / FINGERPRINT).read_text(encoding="utf-8"))
        params = digest_of([fields["params"], fields["views"], fields["captions"]])
        return fields["data"], fields["code"], fields["base_revision"], params
    except (OSError, ValueError, KeyError):
        return "", "", "", ""


def _touched(path: Path) -> float:
    return max(each.stat().st_mtime for each in (path, *path.rglob("*")))


def _size(path: Path) -> int:
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())


def main() -> int:
    """Show or remove, and return an exit status."""
    parser = argparse.ArgumentParser(prog="python -m flows.prune", description="Remove what is old and nothing points at.")
    parser.add_argument("--yes", action="store_true", help="remove; without it, only show what would be")
    parser.add_argument("--days", type=float, help="by default retrain.keep_days of params.yaml")
    options = parser.parse_args()
    try:
        days = read_settings().keep_days if options.days is None else options.days
        with explained_failures():
            pinned = pinned_versions(open_store())
        found = find_old(pinned, days)
        for old in found:
            print(f"{'removing' if options.yes else 'would remove'} {old.what} {old.path} ({old.size / 1e6:.1f} MB)")
            if options.yes:
                remove(old)
        print(f"prune: {len(found)} older than {days:g} days, {sum(old.size for old in found) / 1e6:.1f} MB")
        print(collect_unreferenced(pinned, dry=not options.yes))
    except (TloraError, OSError) as error:
        print(f"prune: error: {error}", file=sys.stderr)
        return 2
    if not options.yes:
        print("prune: nothing was removed; make prune YES=1 does it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
