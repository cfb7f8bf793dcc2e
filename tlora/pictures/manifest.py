"""The manifest: which pictures with which captions, by content, and which of them are held out.

Who is held out depends on each picture's own digest, so adding or renaming a picture moves at most one other, and copies of
one picture stay on one side.
"""

import hashlib
import json
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tlora.errors import PictureError
from tlora.metadata.concept import HeldOutShare
from tlora.pictures.colour import Refused
from tlora.runtime.settings import nearest

VERSION = 2


@dataclass(frozen=True, slots=True)
class PictureItem:
    """One picture with its caption.

    Args:
        picture: File name in the data folder.
        sha256: Digest of the file's bytes, in hex.
        width: Pixels, once upright.
        height: Pixels, once upright.
        caption: What it shows; empty if there is no caption.
        mask_sha256: Digest of the bytes of its loss mask; empty if it has none.
    """

    picture: str
    sha256: str
    width: int
    height: int
    caption: str
    mask_sha256: str = ""


@dataclass(frozen=True)
class Manifest:
    """Items sorted by picture, and the digest that stands for them all."""

    items: tuple[PictureItem, ...]
    digest: str


@dataclass(frozen=True)
class Split:
    """One version of the data: what is trained on, and what is held out."""

    train: Manifest
    held_out: Manifest


def build_manifest(items: Sequence[PictureItem]) -> Manifest:
    """Return the manifest of some items: the same items, in whatever order, the same digest."""
    ordered = tuple(sorted(items, key=lambda item: item.picture))
    return Manifest(ordered, _digest(ordered))


def manifest_to_json(manifest: Manifest) -> dict[str, object]:
    """Return a manifest as it stands in a file."""
    return {"version": VERSION, "digest": manifest.digest, "items": [_as_json(item) for item in manifest.items]}


def read_manifest(path: Path) -> Manifest:
    """Read a manifest that `validate` wrote.

    Raises:
        PictureError: If it is missing, of another version, malformed, or its digest does not fit its items.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        if given["version"] != VERSION:
            raise PictureError(f"{path}: manifest version {given['version']}, this code reads {VERSION}", "manifest")
        manifest = Manifest(tuple(PictureItem(**item) for item in given["items"]), given["digest"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PictureError(f"{path}: not a readable manifest ({error})", "manifest") from error
    if _digest(manifest.items) != manifest.digest:
        raise PictureError(f"{path}: its digest does not fit its items: it was edited by hand", "manifest")
    return manifest


def read_split(folder: Path) -> Split:
    """Read both manifests of a folder that `validate` wrote.

    Raises:
        PictureError: As `read_manifest`.
    """
    return Split(read_manifest(folder / "train.json"), read_manifest(folder / "held_out.json"))


def split_items(
    items: Sequence[PictureItem], held_out: tuple[str, ...] | HeldOutShare
) -> tuple[list[PictureItem], list[PictureItem]]:
    """Split items into those to train on and those held out; neither part is empty.

    Args:
        items: All of them.
        held_out: Names of pictures, or a share of them: the nearest whole number, at least one.

    Raises:
        Refused: If there are fewer than two pictures, a name is unknown, or nothing is left to train on.
    """
    if len(items) < 2:
        raise Refused(
            f"{len(items)} readable picture, and 2 are needed: one is held out to tell learning from memorising",
            "add one, or cut the one that you have in two",
        )
    chosen = _by_share(items, held_out) if isinstance(held_out, HeldOutShare) else _by_name(items, held_out)
    train = [item for item in items if item.picture not in chosen]
    if not train:
        raise Refused("every readable picture is held out, none is left to train on", "name fewer in concept.yaml's held_out")
    return train, [item for item in items if item.picture in chosen]


def _by_name(items: Sequence[PictureItem], names: tuple[str, ...]) -> set[str]:
    known = {unicodedata.normalize("NFC", item.picture): item.picture for item in items}
    chosen = set()
    for name in names:
        if unicodedata.normalize("NFC", name) not in known:
            raise Refused(f"{name!r} is to be held out, but is no readable picture{_suggestion(name, known)}", "correct held_out")
        chosen.add(known[unicodedata.normalize("NFC", name)])
    return chosen


def _suggestion(name: str, known: Mapping[str, str]) -> str:
    return nearest(name, list(known)) if len(known) <= 1000 else ""


def _by_share(items: Sequence[PictureItem], share: HeldOutShare) -> set[str]:
    scores = {item.picture: hashlib.sha256(f"{share.seed}:{item.sha256}".encode()).hexdigest() for item in items}
    ordered = sorted(set(scores.values()))
    wanted = max(1, math.floor(share.fraction * len(items) + 0.5))
    limit = ordered[min(wanted, max(1, len(ordered) - 1)) - 1]
    return {picture for picture, score in scores.items() if score <= limit}


def _as_json(item: PictureItem) -> dict[str, object]:
    """Return an item's fields; `dataclasses.asdict`, which copies deeply, takes ten times as long."""
    return {
        "picture": item.picture,
        "sha256": item.sha256,
        "width": item.width,
        "height": item.height,
        "caption": item.caption,
        "mask_sha256": item.mask_sha256,
    }


def _digest(items: Sequence[PictureItem]) -> str:
    """Return the sha256 of the items as JSON, which is never in memory as a whole."""
    digest = hashlib.sha256(b"[")
    for number, item in enumerate(items):
        digest.update(
            ("," if number else "").encode() + json.dumps(_as_json(item), sort_keys=True, separators=(",", ":")).encode()
        )
    digest.update(b"]")
    return digest.hexdigest()
