"""What DVC's cache must keep, and the removal of the rest.

`dvc gc --all-commits` stops at the first commit that DVC cannot read, knows neither stashes nor what lies in git's reflog, and
takes imported data for something that can be had again, also where its source is gone. So the digests are read here, out of
every `.dvc` file and `dvc.lock` that git or a working tree holds, whatever else is wrong with them; DVC is told to keep these.
"""

import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import chdir
from pathlib import Path

from tasks.dvc_command import run_dvc
from tasks.git_history import read_history
from tasks.running.git import git
from tasks.running.state_folder import repository_root, state_folder
from tlora.errors import SettingsError
from tlora.runtime.yaml_text import render_yaml

_FILES = (":(top,glob)**/*.dvc", ":(top,glob)**/dvc.lock")
_DIGEST = re.compile(r"\b[0-9a-f]{32}(?:\.dir)?\b")


def collect_unnamed(named: Iterable[str], *, dry: bool) -> str:
    """Let DVC remove from its cache what nothing names, and return what it says.

    Args:
        named: Digests that stay, whatever git knows.
        dry: Only say what would be removed.

    Raises:
        SettingsError: If the cache is not this repository's own, or git or DVC refuse.
    """
    cache = Path(run_dvc("cache", "dir"))
    if not cache.resolve().is_relative_to(repository_root().resolve()):
        raise SettingsError(f"DVC's cache is {cache}, outside this repository, where others may use it: it is left as it is")
    kept = sorted({*named, *_DIGEST.findall(read_history(_FILES)), *_named_in_trees(), *_named_aside()})
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        run_dvc("init", "--no-scm", "--quiet")
        run_dvc("config", "--local", "cache.dir", str(cache))
        Path("kept.dvc").write_text(render_yaml({"outs": [*_held(cache, kept)]}), encoding="utf-8")
        return run_dvc("gc", "--workspace", "--dry" if dry else "--force")


def _named_in_trees() -> set[str]:
    """Return the digests that files in a working tree name, committed or not; `dvc exp run --temp` has trees of its own."""
    listed = git("worktree", "list", "--porcelain").splitlines()
    trees = [Path(line.removeprefix("worktree ")) for line in listed if line.startswith("worktree ")]
    trees += [path for path in Path(".dvc", "tmp", "exps").glob("*") if (path / ".git").exists()]
    return {digest for tree in trees if tree.exists() for digest in _named_in_tree(tree)}


def _named_in_tree(tree: Path) -> Iterator[str]:
    listed = git("-C", str(tree), "ls-files", "-z", "--full-name", "--cached", "--others", "--exclude-standard", "--", *_FILES)
    for name in filter(None, listed.split("\0")):
        if (tree / name).is_file():
            yield from _DIGEST.findall((tree / name).read_text(encoding="utf-8", errors="replace"))


def _named_aside() -> set[str]:
    """Return the digests in `.dvc` files that were set aside because no commit held them."""
    files = state_folder("replaced").glob("*/*.dvc")
    return {digest for file in files for digest in _DIGEST.findall(file.read_text(encoding="utf-8", errors="replace"))}


def _held(cache: Path, digests: Iterable[str]) -> Iterator[dict[str, str]]:
    """Return the outputs that make DVC keep these digests, where its cache has them, in its present form or that of DVC 2."""
    for digest in digests:
        place = Path(digest[:2], digest[2:])
        if (cache / "files" / "md5" / place).exists():
            yield {"md5": digest, "hash": "md5", "path": f"now/{digest}"}
        if (cache / place).exists():
            yield {"md5": digest, "path": f"before/{digest}"}
