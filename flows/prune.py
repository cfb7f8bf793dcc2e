"""`make prune`: what has grown old and nothing points at: shown first, removed when told to.

Old are training states with their checkpoints, reusable cache items, evaluations that were not finished, and what a killed run
left behind: its worktree, and the branch of a run that registered nothing. Unreferenced are objects in DVC's cache that nothing
names (flows/cache.py). What an alias in the registry points at stays: its training state, and its data.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.cache import collect_unnamed
from flows.reasons import read_settings
from flows.worktree import OVERRIDE, RUN, files_added
from tasks.git_history import BRANCHES
from tasks.registry.versions import pinned_versions, revisions
from tasks.running.git import git
from tasks.running.state_folder import state_folder
from tasks.tracking.store import explained_failures, open_store
from tlora.errors import SettingsError, TloraError
from tlora.metadata.digests import FINGERPRINT, params_digest

if TYPE_CHECKING:
    from tasks.registry.versions import ModelVersion

_MADE_FROM = ("data_digest", "code_digest", "base_revision", "params_digest")  # tags of a version, in the order of `_origin`


@dataclass(frozen=True)
class Old:
    """Something that may go: what it is, where, and its bytes."""

    what: str
    path: Path
    size: int


def find_old(pinned: "Sequence[ModelVersion]", made_at: Set[str], days: float) -> list[Old]:
    """Return what is older than so many days and nothing points at.

    Args:
        pinned: The versions that aliases point at.
        made_at: Branches and commits that any version was made at.
        days: What was touched since then stays.
    """
    before = time.time() - 86400 * days
    made = {tuple(version.tags.get(tag, "") for tag in _MADE_FROM) for version in pinned}
    trained = sorted((path for path in state_folder("train").iterdir() if path.is_dir()), key=_touched)
    old = [
        Old("training state", path, _size(path)) for path in trained[:-1] if _touched(path) < before and _origin(path) not in made
    ]
    items = (path for path in state_folder("cache").rglob("*") if path.is_file() and path.stat().st_mtime < before)
    old += [Old("cached item", path, path.stat().st_size) for path in sorted(items)]
    begun = (path for path in state_folder("evaluate").iterdir() if _touched(path) < before)
    old += [Old("begun evaluation", path, _size(path)) for path in sorted(begun)]
    left = (path for path in state_folder("worktrees").iterdir() if _touched(path) < before)
    old += [Old("worktree of a run", path, _size(path)) for path in sorted(left)]
    return old + [Old("branch of a run", Path(branch), 0) for branch in _old_branches(made_at, before)]


def remove(old: Old) -> None:
    """Remove it; a worktree in which somebody has left files of their own stays.

    Raises:
        SettingsError: Where it stays, and why.
    """
    if old.what == "branch of a run":
        git("branch", "--quiet", "-D", str(old.path))
    elif old.what == "worktree of a run":
        if added := files_added(old.path):
            raise SettingsError(f"{old.path}: holds files that no commit does ({', '.join(added[:3])}): it is left as it is")
        shutil.rmtree(old.path)
        git("worktree", "prune")
    elif old.path.is_dir():
        shutil.rmtree(old.path)
    else:
        old.path.unlink(missing_ok=True)


def _old_branches(made_at: Set[str], before: float) -> Iterator[str]:
    """Return the branches of runs that registered nothing, as far as nobody has gone on with them or works there."""
    described = "--format=%(refname:short)%09%(committerdate:unix)%09%(worktreepath)%09%(subject)"
    for line in git("for-each-ref", described, f"refs/heads/{BRANCHES}/").splitlines():
        branch, moment, tree, subject = line.split("\t", 3)
        if float(moment) >= before or branch in made_at or tree:
            continue
        commits = git("rev-list", f"HEAD..{branch}").split()
        if made_at.isdisjoint(commits) and (not commits or subject.startswith((OVERRIDE, RUN))):
            yield branch


def _origin(folder: Path) -> tuple[str, str, str, str]:
    """Return what a training state was made from, as a version's tags say it."""
    try:
        fields = json.loads((folder / FINGERPRINT).read_text(encoding="utf-8"))
        return fields["data"], fields["code"], fields["base_revision"], params_digest(fields)
    except (OSError, ValueError, KeyError):
        return "", "", "", ""


def _remove_or_say(old: Old) -> None:
    try:
        remove(old)
    except SettingsError as error:
        print(f"prune: {error}")


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
            store = open_store()
            pinned, made_at = pinned_versions(store), revisions(store)
        found = find_old(pinned, made_at, days)
        for old in found:
            print(f"{'removing' if options.yes else 'would remove'} {old.what} {old.path} ({old.size / 1e6:.1f} MB)")
            if options.yes:
                _remove_or_say(old)
        print(f"prune: {len(found)} older than {days:g} days, {sum(old.size for old in found) / 1e6:.1f} MB")
        print(collect_unnamed([version.tags.get("data_dvc", "") for version in pinned], dry=not options.yes))
    except (TloraError, OSError) as error:
        print(f"prune: error: {error}", file=sys.stderr)
        return 2
    if not options.yes:
        print("prune: nothing was removed; make prune YES=1 does it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
