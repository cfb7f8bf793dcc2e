"""The folder that a person names for results: can it be written, and is what lies there somebody else's?"""

import json
from collections.abc import Callable
from pathlib import Path

from tlora.metadata.adapter import FINAL
from tlora.runtime.atomic_file import write_json

OWNER = "run.json"


def claim_output(folder: Path, fingerprint: str, say: Callable[[str], None]) -> None:
    """Mark a folder as a run's, and move adapters that another run left there into a folder beside, never mixed, never lost."""
    owner = folder / OWNER
    if owner.exists() and json.loads(owner.read_text(encoding="utf-8")).get("fingerprint") == fingerprint:
        return
    found = [p for p in sorted(folder.glob("*/")) if p.name == FINAL or p.name.startswith("checkpoint-")]
    if found:
        number = next(n for n in range(1, len(list(folder.iterdir())) + 2) if not (folder / f"former-{n}").exists())
        former = folder / f"former-{number}"
        former.mkdir()
        for path in [*found, *(p for p in (owner, folder / "log.jsonl") if p.exists())]:
            path.rename(former / path.name)
        say(f"{folder}: adapters of another run moved to {former}")
    write_json(owner, {"fingerprint": fingerprint})
