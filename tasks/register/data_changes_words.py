"""What changed in the data since the champion was trained, in words: for a terminal, a page, an artifact.

File names and captions are other people's text, so in Markdown each stands in code marks of its own.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from tasks.register.data_changes import DataChanges

_MOST_ROWS = 50  # of one kind


@dataclass(frozen=True)
class SinceChampion:
    """What changed since the data of a champion.

    Args:
        version: The champion's version; None if there is no champion.
        changes: What changed; None if the champion's run does not say what it was trained on.
    """

    version: str | None
    changes: DataChanges | None


def summarise_changes(changes: DataChanges) -> str:
    """Return `2 pictures added, 1 caption changed`.

    Example:
        >>> summarise_changes(DataChanges(added=("a.png", "b.png"), removed=("c.png",)))
        '2 pictures added, 1 picture removed'
    """
    counts = (
        (len(changes.added), "picture", "added"),
        (len(changes.removed), "picture", "removed"),
        (len(changes.replaced), "picture", "replaced under the same name"),
        (len(changes.renamed), "picture", "renamed"),
        (len(changes.recaptioned), "caption", "changed"),
        (len(changes.remasked), "loss mask", "changed"),
        (len(changes.now_held_out), "picture", "held out that was trained on"),
        (len(changes.now_trained), "picture", "trained on that was held out"),
    )
    said = [f"{count} {noun}{'' if count == 1 else 's'} {what}" for count, noun, what in counts if count]
    return ", ".join(said) or "nothing changed"


def say_since(since: SinceChampion) -> str:
    """Return one sentence without a full stop."""
    if since.version is None:
        return "no champion yet to compare the data with"
    whose = f"since the data of the champion (version {since.version})"
    if since.changes is None:
        return f"what changed {whose} is not known: its run keeps no manifest"
    return f"{whose}: {summarise_changes(since.changes)}"


def since_to_markdown(since: SinceChampion) -> str:
    """Return the page: the sentence, then every change, up to fifty of a kind."""
    sentence = say_since(since)
    parts = [f"# Data\n\n{sentence[0].upper()}{sentence[1:]}."]
    for title, rows in list_changes(since.changes or DataChanges(), code):
        parts.append("\n".join([f"## {title}", "", *(f"- {row}" for row in rows)]))
    return "\n\n".join(parts) + "\n"


def list_changes(changes: DataChanges, mark: Callable[[str], str]) -> list[tuple[str, list[str]]]:
    """Return every kind of change that there is with a line for each change, up to fifty of a kind.

    Args:
        changes: What changed.
        mark: Writes a file name or a caption so that it shows as itself.
    """
    kinds = (
        ("Added", map(mark, changes.added)),
        ("Removed", map(mark, changes.removed)),
        ("Replaced under the same name", map(mark, changes.replaced)),
        ("Renamed", (f"{mark(before)} is now {mark(after)}" for before, after in changes.renamed)),
        ("Captions changed", (f"{mark(c.picture)}: {mark(c.before)} is now {mark(c.after)}" for c in changes.recaptioned)),
        ("Loss masks changed", map(mark, changes.remasked)),
        ("Held out now, trained on before", map(mark, changes.now_held_out)),
        ("Trained on now, held out before", map(mark, changes.now_trained)),
    )
    listed = ((title, list(rows)) for title, rows in kinds)
    return [(title, _first(rows)) for title, rows in listed if rows]


def code(text: str) -> str:
    """Return text as Markdown code, whatever it holds.

    Example:
        >>> code("a`b.png")
        '`` a`b.png ``'
    """
    line = " ".join(text.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if len(fence) > 1 else f"`{line}`" if line else "(empty)"


def _first(rows: list[str]) -> list[str]:
    return [*rows[:_MOST_ROWS], f"and {len(rows) - _MOST_ROWS} more"] if len(rows) > _MOST_ROWS else rows
