"""What changed from one version of the data to another: pure, from two pairs of manifests.

A picture is known by its name first and by its bytes after that, so a renamed picture is neither lost nor new.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from tlora.pictures.manifest import PictureItem, Split


@dataclass(frozen=True)
class Recaptioned:
    """A picture, by its later name, whose caption changed."""

    picture: str
    before: str
    after: str


@dataclass(frozen=True)
class DataChanges:
    """All differences, each sorted by picture; a picture may be in several.

    Args:
        added: Names of pictures that were not there.
        removed: Names of pictures that are gone.
        replaced: Names that stand for other bytes now.
        renamed: Pairs of names, before and after, of the same bytes.
        recaptioned: Captions before and after.
        remasked: Names of pictures whose loss mask is another, new, or gone.
        now_held_out: Names of pictures that were trained on before.
        now_trained: Names of pictures that were held out before: what they measured then, they cannot measure now.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    recaptioned: tuple[Recaptioned, ...] = ()
    remasked: tuple[str, ...] = ()
    now_held_out: tuple[str, ...] = ()
    now_trained: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self != DataChanges()


def compare_splits(before: Split, after: Split) -> DataChanges:
    """Return what changed from one version of the data to another.

    Example:
        >>> from tlora.pictures.manifest import build_manifest
        >>> one, two = PictureItem("a.png", "5a", 64, 64, "a wall"), PictureItem("b.png", "5a", 64, 64, "a brick wall")
        >>> nothing = build_manifest([])
        >>> changes = compare_splits(Split(build_manifest([one]), nothing), Split(build_manifest([two]), nothing))
        >>> changes.renamed, changes.recaptioned[0].after
        ((('a.png', 'b.png'),), 'a brick wall')
    """
    old, new = _by_name(before), _by_name(after)
    renamed = _renamed(old, new)
    was = {name: name for name in new if name in old} | {later: earlier for earlier, later in renamed}
    held_before = {item.picture for item in before.held_out.items}
    held_after = {item.picture for item in after.held_out.items}
    kept = sorted(was)
    return DataChanges(
        added=tuple(sorted(new.keys() - was.keys())),
        removed=tuple(sorted(old.keys() - set(was.values()))),
        replaced=tuple(name for name in kept if new[name].sha256 != old[was[name]].sha256),
        renamed=renamed,
        recaptioned=tuple(
            Recaptioned(name, old[was[name]].caption, new[name].caption)
            for name in kept
            if new[name].caption != old[was[name]].caption
        ),
        remasked=tuple(name for name in kept if new[name].mask_sha256 != old[was[name]].mask_sha256),
        now_held_out=tuple(name for name in kept if name in held_after and was[name] not in held_before),
        now_trained=tuple(name for name in kept if name not in held_after and was[name] in held_before),
    )


def _by_name(split: Split) -> dict[str, PictureItem]:
    return {item.picture: item for item in (*split.train.items, *split.held_out.items)}


def _renamed(old: Mapping[str, PictureItem], new: Mapping[str, PictureItem]) -> tuple[tuple[str, str], ...]:
    """Pair names that are gone with new names of the same bytes, in order of name."""
    gone: dict[str, list[str]] = defaultdict(list)
    for name in sorted(old.keys() - new.keys(), reverse=True):
        gone[old[name].sha256].append(name)
    pairs = [(gone[new[name].sha256].pop(), name) for name in sorted(new.keys() - old.keys()) if gone[new[name].sha256]]
    return tuple(sorted(pairs))
