"""Which outputs have to be there: a cache that no stage is going to read is not made again where results were pulled.

`dvc repro --allow-missing` skips a stage that lacks its outputs alone, also where a stage that runs then fails for want of them.
Here it skips only what no stage that may run reads.
"""

from collections.abc import Mapping, Sequence
from typing import Any

_MISSING = ("deleted", "not in cache")


def needed_stages(needs: Mapping[str, set[str]], status: Mapping[str, Sequence[Any]]) -> set[str]:
    """Return the stages that may run, and those whose missing outputs they, or people, read.

    Args:
        needs: For each node of DVC's graph those that it depends on directly.
        status: What DVC finds changed, as `dvc status --json` has it.
    """
    outputs = {stage: _missing(entries, "changed outs") for stage, entries in status.items() if not stage.endswith(".dvc")}
    absent = [path for paths in outputs.values() for path in paths]
    incomplete = {stage for stage, paths in outputs.items() if paths}
    read_by_a_stage = set().union(*needs.values())
    needed = {stage for stage, entries in status.items() if _has_changed(entries, absent)} | incomplete - read_by_a_stage
    while True:
        after = {stage for stage in needs if needs[stage] & needed}
        before = {need for stage in needed for need in needs[stage]} & incomplete
        if after | before <= needed:
            return needed
        needed |= after | before


def _has_changed(entries: Sequence[Any], absent: Sequence[str]) -> bool:
    """Whether there is more to it than outputs that are absent, its own or those that it reads."""
    for entry in entries:
        for paths in entry.values() if isinstance(entry, Mapping) else [entry]:
            changed = paths.items() if isinstance(paths, Mapping) else [(paths, "changed")]
            if any(how not in _MISSING or not _is_in(path, absent) for path, how in changed):
                return True
    return False


def _missing(entries: Sequence[Any], kind: str) -> list[str]:
    found = [entry.get(kind, {}) for entry in entries if isinstance(entry, Mapping)]
    return [path for paths in found for path, how in paths.items() if how in _MISSING]


def _is_in(path: str, folders: Sequence[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)
