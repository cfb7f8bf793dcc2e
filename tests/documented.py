"""What README.md and docs/*.md tell people to type: every fenced block, taken apart into commands."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Block:
    """A fenced block: its document, its language as written behind the fence, and its text."""

    document: str
    language: str
    text: str

    def commands(self) -> list[str]:
        """Return a shell block's commands, without comments; any other block is one of its own."""
        return list(_split(self.text)) if self.language == "sh" else [self.text.strip()]


def blocks() -> list[Block]:
    """Return every fenced block, in the order of a reader."""
    return [
        Block(str(file.relative_to(ROOT)), language, text)
        for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
        for language, text in re.findall(
            r"^ *```(\w*)\n(.*?)^ *```$", file.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
        )
    ]


def _split(text: str) -> Iterator[str]:
    """Yield commands: a line, with those that a backslash, a pipe or an open quote joins to it."""
    command = ""
    for line in text.splitlines():
        command = f"{command}\n{line}" if command else line
        if not line.rstrip().endswith(("\\", "|")) and _is_closed(command):
            yield re.sub(r"\s+#[^'\"]*$", "", command).strip()
            command = ""
    assert not command, f"a block ends in the middle of a command: {command}"


def _is_closed(command: str) -> bool:
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return True
