"""`make restore VERSION=champion`: put data/ back to what an adapter was trained on. Not a stage.

Git knows which commit's data.dvc had a digest, DVC brings the files back. What DVC does not hold yet, or Git has no record of,
is never overwritten.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tasks.dvc_command import local_changes, parse_dvc_file, read_dvc_file, run_dvc
from tasks.registry.names import registered_name_here
from tasks.registry.trust import objection_to_signature
from tasks.registry.versions import find_alias
from tasks.running.git import ask_git, text_at
from tasks.running.telemetry import telemetry_off
from tasks.tracking.store import TrackingError, explained_failures, open_store
from tlora.errors import PictureError, SettingsError, TloraError
from tlora.runtime.atomic_file import write_text
from tlora.runtime.yaml_text import parse_yaml, render_yaml
from tlora.trust.keys import TrustError
from tlora.trust.settings import trust_here

FILE = Path("data.dvc")
CONCEPT = Path("concept.yaml")
DATA_TAG = "data_dvc"  # of a version: the digest of its data


def restore_data(digest: str) -> str:
    """Bring the data folder back to a digest.

    Args:
        digest: What a `data.dvc` said, or its beginning.

    Returns:
        What was done, for a person.

    Raises:
        PictureError: If something would be lost.
        SettingsError: If DVC cannot get the files; then all is as it was.
    """
    before = FILE.read_text(encoding="utf-8") if FILE.exists() else ""
    folder, current = read_dvc_file(FILE)
    if current.startswith(digest) and not _changed(folder):
        return f"{folder}/ is that version already ({current})"
    _require_kept(folder, current)
    commit, text = _find_commit(digest) or ("", _without_sizes(before, current, digest))
    write_text(FILE, text)
    try:
        _check_out()
    except (SettingsError, KeyboardInterrupt):
        write_text(FILE, before)
        run_dvc("checkout", "--quiet", str(FILE))
        raise
    if not commit:
        run_dvc("commit", "--force", "--quiet", str(FILE))  # writes the sizes back, so that the file is what it was
    return "\n".join([f"{folder}/ is back at {read_dvc_file(FILE)[1]}", *_concept_hint(commit)])


def digest_of_version(version: str) -> str:
    """Return the data digest of a registered version, given by alias or number, of this base model and concept.

    Raises:
        TrackingError: If there is no such version, or it does not say what it was trained on.
        TrustError: If it is not signed as section `trust` asks.
    """
    name = registered_name_here()
    with explained_failures():
        store = open_store()
        if version.isdigit():
            found = next(iter(store.client.search_model_versions(f"name = '{name}' and version_number = {version}")), None)
        else:
            found = find_alias(store, name, version)
    if found is None:
        raise TrackingError(f"{name}: no version {version!r} in the MLflow store: give an alias, a number, or --digest")
    with explained_failures():
        untrusted = objection_to_signature(store, found, trust_here())
    if untrusted:
        raise TrustError(f"{name}: nothing is restored: {untrusted}")
    if DATA_TAG not in found.tags:
        raise TrackingError(f"{name}, version {found.version}: does not say what it was trained on: give --digest")
    return found.tags[DATA_TAG]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tasks.restore_data", description="Put data/ back to an earlier version.")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--version", help="alias or number of a registered version, such as champion")
    which.add_argument("--digest", help="md5 that a data.dvc named, or its first characters")
    options = parser.parse_args(arguments)
    telemetry_off()
    try:
        print(f"restore: {restore_data(options.digest or digest_of_version(options.version))}")
    except (TloraError, OSError) as error:
        print(f"restore: error: {error}", file=sys.stderr)
        return 2
    return 0


def _changed(folder: str) -> bool:
    """Whether the folder is there and is not what DVC recorded."""
    return Path(folder).exists() and bool(local_changes(folder))


def _require_kept(folder: str, current: str) -> None:
    if _changed(folder):
        raise PictureError(f"{folder}/: has changes that DVC does not hold yet: first 'dvc add {folder}' and commit {FILE}")
    if not _find_commit(current):
        raise PictureError(f"{FILE}: no commit holds it, so the way back would be lost: first 'git commit {FILE}'")


def _find_commit(digest: str) -> tuple[str, str] | None:
    """Return the last commit whose data.dvc has this digest, and the text of that file; None if there is none."""
    for commit in ask_git("log", "--all", "--format=%H", f"-S{digest}", "--", str(FILE)).split():
        text = text_at(commit, FILE)
        try:
            if text and parse_dvc_file(text)[1].startswith(digest):
                return commit, text
        except ValueError:
            continue
    return None


def _without_sizes(text: str, current: str, digest: str) -> str:
    """Return the text of a data.dvc that names a digest of which Git knows nothing.

    Raises:
        PictureError: If it is no whole digest.
    """
    if len(digest) != len(current) or not digest.endswith(".dir"):
        shallow = ": this clone is shallow, 'git fetch --unshallow' brings the others," if _is_shallow() else ""
        raise PictureError(
            f"{digest}: no commit's {FILE} has this digest{shallow or ':'} see 'git log {FILE}', or give it whole, with .dir"
        )
    written = parse_yaml(text)
    (out,) = written["outs"]
    imported = {key: written[key] for key in ("frozen", "deps") if key in written}  # where it is from stays known
    kept = {key: value for key, value in out.items() if key not in ("size", "nfiles")}
    return render_yaml({**imported, "outs": [kept | {"md5": digest}]})


def _is_shallow() -> bool:
    return ask_git("rev-parse", "--is-shallow-repository") == "true"


def _check_out() -> None:
    try:
        run_dvc("checkout", "--quiet", str(FILE))
    except SettingsError:
        run_dvc("pull", "--quiet", str(FILE))  # not in this machine's cache: from the default remote


def _concept_hint(commit: str) -> list[str]:
    then = text_at(commit, CONCEPT) if commit else ""
    if not then or (CONCEPT.exists() and CONCEPT.read_text(encoding="utf-8") == then):
        return []
    return [f"  {CONCEPT} has changed since; to have it as it was: git checkout {commit[:12]} -- {CONCEPT}"]


if __name__ == "__main__":
    sys.exit(main())
