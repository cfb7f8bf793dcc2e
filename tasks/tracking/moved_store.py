"""A store whose tree was moved or copied: MLflow writes absolute paths of artifacts into its database, and they stay behind.

After a move they lead nowhere, and new artifacts go to the old place; in a copy they lead into the original. MLflow has no
command for this, so the paths are set in the database: those that begin with the old place, to the place beside it.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

ARTIFACTS = "mlartifacts"  # the folder beside the database
_PATHS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def follow_the_store(database: Path, experiment: str) -> str:
    """Let the artifacts of a store lie beside its database, wherever that is now.

    Args:
        database: The SQLite file.
        experiment: The one whose artifacts' place says where the database was.

    Returns:
        What was done, in a sentence; empty if nothing had to be, or if somebody chose the place.
    """
    if not database.exists():
        return ""
    here = (database.absolute().parent / ARTIFACTS).as_uri()
    with closing(sqlite3.connect(database, timeout=60)) as store, store:
        there = _location(store, experiment)
        if there in (None, here) or not _is_left_behind(str(there), database):
            return ""
        for table, column in _PATHS:
            store.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (here, len(str(there)) + 1, there, len(str(there)) + 1, f"{there}/"),
            )
    old = _folder(str(there)).parent
    what = "is a copy of the one in" if (old / database.name).exists() else "has moved here from"
    return f"the MLflow store {what} {old}: its artifacts are now looked for in {_folder(here)}"


def missing_artifacts(location: str) -> str:
    """Return what is wrong with where an experiment keeps its artifacts, in a sentence; empty if nothing is known to be."""
    if not location.startswith("file:") or _folder(location).parent.exists():
        return ""
    return f"the MLflow store keeps artifacts in {_folder(location)}, which this machine does not have"


def _location(store: sqlite3.Connection, experiment: str) -> str | None:
    try:
        found = store.execute("SELECT artifact_location FROM experiments WHERE name = ?", (experiment,)).fetchone()
    except sqlite3.DatabaseError:  # no store yet, or none of MLflow's: opening it says more
        return None
    return str(found[0]) if found else None


def _is_left_behind(location: str, database: Path) -> bool:
    """Whether a place is what we would have chosen for this database elsewhere: it is gone, or another database lies there."""
    if not location.startswith("file:") or _folder(location).name != ARTIFACTS:
        return False
    other = _folder(location).parent / database.name
    return not _folder(location).exists() or (other.exists() and not other.samefile(database))


def _folder(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))
