"""What was seen of pictures, remembered by content in one SQLite file: hundreds of thousands of looks, none of them in memory.

One process writes, in small transactions, so a run that is killed loses less than a second of work. Workers only read. A file
that is damaged is begun anew: nothing is in it that cannot be seen again.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from types import TracebackType

from tlora.errors import PictureError
from tlora.pictures.colour import Note

_PER_TRANSACTION = 32
_PATIENCE = 60.0  # seconds to wait for another process that writes


@dataclass(frozen=True, slots=True)
class Look:
    """What can be said of a picture's content alone; `refused` holds reason and remedy if it cannot be used."""

    width: int
    height: int
    contrast: float
    sharpness: float
    perceptual_hash: int
    notes: tuple[Note, ...]
    refused: Note | None


class LookStore:
    """Looks and thumbnails by digest of the picture's bytes; use it as a context.

    Args:
        file: Where; made if it is missing.
    """

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file, self._waiting = file, 0
        try:
            self._connection = _open(file)
        except sqlite3.DatabaseError:
            file.unlink()  # not a database, or a damaged one
            self._connection = _open(file)

    def __enter__(self) -> "LookStore":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connection.commit()
        self._connection.close()

    def keep(self, digest: str, look: Look, thumbnail: bytes) -> None:
        """Remember a look; a number of them at once reach the disk.

        Raises:
            PictureError: If they cannot be written.
        """
        text = json.dumps(look, default=_as_json, separators=(",", ":"))
        try:
            self._connection.execute("INSERT OR REPLACE INTO looks VALUES (?, ?, ?)", (digest, text, thumbnail))
            self._waiting += 1
            if self._waiting >= _PER_TRANSACTION:
                self._connection.commit()
                self._waiting = 0
        except sqlite3.Error as error:
            raise PictureError(f"{self._file}: {error}: make room on its disk, or delete it, and run again") from error

    def thumbnail(self, digest: str) -> bytes:
        """Return a JPEG, or no bytes if there is none."""
        found = self._connection.execute("SELECT thumbnail FROM looks WHERE digest = ?", (digest,)).fetchone()
        return bytes(found[0]) if found else b""


@contextmanager
def known_looks(file: Path) -> Iterator[Callable[[str], Look | None]]:
    """Yield what returns the look kept by a digest, or None: there is none, it is damaged, or `file` cannot be read here."""
    try:
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", timeout=_PATIENCE, uri=True)
    except sqlite3.Error:
        yield lambda digest: None
    else:
        with closing(connection):
            yield partial(_find, connection)


def forget_others(file: Path, kept: int = 3) -> None:
    """Delete all but the latest files of looks made in other ways, by earlier code or at other resolutions."""
    others = sorted((other for other in file.parent.glob("*.sqlite") if other != file), key=lambda other: other.stat().st_mtime)
    for other in others[:-kept]:
        other.unlink(missing_ok=True)


def _open(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=_PATIENCE)
    try:
        connection.execute("PRAGMA synchronous = OFF")  # what a power failure damages is only a memory
        connection.execute("CREATE TABLE IF NOT EXISTS looks (digest TEXT PRIMARY KEY, look TEXT, thumbnail BLOB)")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _as_json(value: Look | Note) -> dict[str, object]:
    """Return a value's fields as they are; `dataclasses.asdict` would copy each of them deeply."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _find(connection: sqlite3.Connection, digest: str) -> Look | None:
    try:
        found = connection.execute("SELECT look FROM looks WHERE digest = ?", (digest,)).fetchone()
        return _parse(found[0]) if found else None
    except (sqlite3.Error, ValueError, KeyError, TypeError):
        return None


def _parse(text: str) -> Look:
    given = json.loads(text)
    given["notes"] = tuple(Note(**note) for note in given["notes"])
    given["refused"] = Note(**given["refused"]) if given["refused"] else None
    return Look(**given)
