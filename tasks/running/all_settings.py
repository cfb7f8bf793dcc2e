"""Whatever a later stage would refuse by its settings is said before the first one, and before a dear one.

The check knows every stage's settings, and a stage must not: else its results would depend on the code of the others. So it is a
process of its own, `python -m tasks.check_settings`. What it found in order is remembered, and not looked at again.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from tasks.running.state_folder import state_folder
from tlora.errors import SettingsError
from tlora.runtime.atomic_file import write_text
from tlora.runtime.settings import read_mapping

CHECKED = frozenset(
    {"validate", "cache_prompts", "cache_latents", "draw_prior", "train", "evaluate"}
)  # stages that have settings
_PRODUCT = Path(__file__).parents[2]
_PLACES = (  # what settings name, of which it matters whether it is here
    ("model", "path"),
    ("draw_prior", "folder"),
    ("train", "stop_evaluator"),
    ("evaluate", "evaluator"),
    ("evaluate", "dinov2"),
    ("evaluate", "preview_model"),
)


def require_all_settings(params: Path) -> None:
    """Refuse what any stage would refuse.

    Args:
        params: params.yaml; concept.yaml lies beside it.

    Raises:
        SettingsError: In one line, naming file, section and key.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return  # several processes of one run: the first one says it for all
    known, memory = _digest(params), state_folder() / "checked_settings"
    if memory.is_file() and memory.read_text(encoding="utf-8") == known:
        return
    command = [sys.executable, "-m", "tasks.check_settings", "--params", str(params), "--quiet"]
    path = os.pathsep.join(filter(None, [str(_PRODUCT), os.environ.get("PYTHONPATH", "")]))
    answer = subprocess.run(
        command, stderr=subprocess.PIPE, text=True, check=False, env={**os.environ, "PYTHONPATH": path}, encoding="utf-8"
    )
    if answer.returncode:
        said = answer.stderr.strip().splitlines() or [f"the check of {params} ended with {answer.returncode}"]
        raise SettingsError(said[-1].removeprefix("settings: error: "))
    write_text(memory, known)


def _digest(params: Path) -> str:
    """Return what the answer depends on: settings, code, and whether what they name is here."""
    digest = hashlib.sha256()
    code = sorted(file for top in ("tasks", "tlora") for file in (_PRODUCT / top).rglob("*.py"))
    for file in (params, params.with_name("concept.yaml"), *code):
        digest.update(f"{file}\0".encode() + (file.read_bytes() if file.is_file() else b"-"))
    sections = read_mapping(params, "a mapping of sections", "")
    for section, key in _PLACES:
        named = (sections.get(section) or {}).get(key) if isinstance(sections.get(section), dict) else None
        digest.update(f"{named}\0{bool(named) and Path(str(named)).exists()}\n".encode())
    return digest.hexdigest()
