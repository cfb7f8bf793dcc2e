"""`make plan`: what the pipeline would run, why, and for about how long, before anything does.

DVC says what has changed since the last run (`dvc status`). What comes after a stage that runs may run too: that depends on
what comes out of it. A stage whose inputs have been seen before is restored from DVC's cache instead, in seconds.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Literal

from flows.stages import order_graph, read_graph
from tasks.dvc_command import is_import, local_changes, read_dvc_file, run_dvc
from tasks.running.all_settings import CHECKED, require_all_settings
from tasks.running.cli import read_params
from tasks.running.git import git
from tasks.running.state_folder import remembered_seconds
from tlora.errors import TloraError
from tlora.runtime.settings import read_mapping

TRAIN_RUN = Path("reports/train/run.json")
PARAMS, LOCK, GRAPH, TRAIN_LOG = Path("params.yaml"), Path("dvc.lock"), Path("dvc.yaml"), Path("reports/train/log.jsonl")
WITHOUT_BASE = ("validate", "register")  # stages that load no base model
CODE = ("flows", "tasks", "tlora")
MOST_REASONS, MOST_OF_VALUE = 3, 24  # in a row of the table; characters

What = Literal["runs", "may run", "up to date"]


@dataclass(frozen=True)
class Planned:
    """What would become of a stage.

    Args:
        stage: A node of DVC's graph.
        what: `may run` where a stage before it runs and may leave something else than before.
        why: In a few words.
        seconds: How long it took last, or None where that is not known.
    """

    stage: str
    what: What
    why: str
    seconds: float | None


def make_plan() -> list[Planned]:
    """Return what would become of every stage, in the order in which they run.

    Raises:
        SettingsError: If DVC or params.yaml cannot be read.
    """
    dot = run_dvc("dag", "--dot")
    return judge_stages(order_graph(dot), read_graph(dot), read_status(), _estimates())


def read_status() -> dict[str, list[Any]]:
    """Return what DVC finds changed since the last run, by stage, as `dvc status --json` has it, settings with their values."""
    found = _changed()
    locked = read_mapping(LOCK, "a mapping", "").get("stages", {}) if LOCK.exists() else {}
    for stage, entries in found.items():
        for entry in entries:
            if isinstance(entry, dict) and "changed deps" in entry:
                entry["changed deps"] = _in_detail(entry["changed deps"], locked.get(stage, {}).get("params", {}))
    return found


def _changed() -> dict[str, list[Any]]:
    """Return what DVC finds changed. What others own is compared with what it was, and not with where it is from.

    `dvc status` asks the source of an import: what is new there is no work for `dvc repro`, and it may be away.
    """
    tracked = [Path(name) for name in git("ls-files", "--cached", "--others", "--exclude-standard", "*.dvc").splitlines()]
    imports = [file for file in tracked if is_import(file)]
    others = [str(file) for file in tracked if file.exists() and file not in imports]
    targets = [*others, *read_mapping(GRAPH, "a mapping", "").get("stages", {})] if imports else []
    found: dict[str, list[Any]] = json.loads(run_dvc("--wait-for-lock", "status", "--json", *targets) or "{}")
    for file in imports:
        folder = (file.parent / read_dvc_file(file)[0]).as_posix()
        if local_changes(folder):
            found[str(file)] = [{"changed outs": {folder: "modified" if Path(folder).exists() else "deleted"}}]
    return found


def _in_detail(deps: Mapping[str, Any], locked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what DVC finds changed with the values of settings, and with the files of a room of code."""
    detailed: dict[str, Any] = {}
    for file, how in deps.items():
        if isinstance(how, Mapping):
            detailed[file] = with_values(how, locked.get(file, {}), read_mapping(Path(file), "a mapping", ""))
        elif how == "modified" and is_code(file) and Path(file).is_dir():
            detailed |= dict.fromkeys(_changed_files(file) or [file], how)
        else:
            detailed[file] = how
    return detailed


def is_code(dependency: str) -> bool:
    """Return whether a dependency of a stage is code of this repository: a file, or a room full of them."""
    return dependency.endswith(".py") or dependency.split("/")[0] in CODE


def _changed_files(room: str) -> list[str]:
    """Return what Git finds changed in a folder since the lock that stands here was committed; DVC names the folder alone."""
    known = git("log", "-1", "--format=%H", "--", str(LOCK)) if not git("status", "--porcelain", "--", str(LOCK)) else ""
    changed = git("diff", "--name-only", "--relative", known or "HEAD", "--", room).splitlines()
    return sorted({*changed, *git("ls-files", "--others", "--exclude-standard", "--", room).splitlines()})


def with_values(changed: Mapping[str, str], before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Return, for settings that DVC names by section or by dotted name, each single setting with its two values.

    Example:
        >>> with_values({"train": "modified"}, {"train": {"rank": 16, "seed": 0}}, {"train": {"rank": 32, "seed": 0}})
        {'train.rank': '16 -> 32'}
    """
    found: dict[str, str] = {}
    for name, how in changed.items():
        old, new = before.get(name), reduce(lambda value, key: value[key], name.split("."), now) if how == "modified" else None
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
            found |= {f"{name}.{key}": _both(old.get(key), new.get(key)) for key in differing}
        else:
            found[name] = _both(old, new) if how == "modified" and old is not None else how
    return found


def _both(old: Any, new: Any) -> str:
    before, after = (
        str(value) if len(str(value)) <= MOST_OF_VALUE else f"{str(value)[:MOST_OF_VALUE]}..." for value in (old, new)
    )
    return f"{before} -> {after}"


def judge_stages(
    order: Sequence[str], needs: Mapping[str, set[str]], status: Mapping[str, Sequence[Any]], seconds: Mapping[str, float]
) -> list[Planned]:
    """Return what would become of each stage, given DVC's graph and what DVC finds changed."""
    planned: dict[str, Planned] = {}
    for stage in order:
        reasons = list(changes(status.get(stage, ())))
        before = sorted(need for need in needs[stage] if need in planned and planned[need].what != "up to date")
        if reasons:
            planned[stage] = Planned(stage, "runs", _shortened(reasons), seconds.get(stage))
        elif before:
            planned[stage] = Planned(stage, "may run", f"comes after {', '.join(before)}", seconds.get(stage))
        else:
            planned[stage] = Planned(stage, "up to date", "", None)
    return list(planned.values())


def changes(entries: Sequence[Any]) -> Iterator[str]:
    """Return what DVC finds changed about one stage, each in words, parameters by name."""
    for entry in entries:
        if not isinstance(entry, Mapping):
            yield "always runs" if entry == "always changed" else str(entry)
            continue
        for changed in entry.values():
            if not isinstance(changed, Mapping):
                yield str(changed)
                continue
            for path, how in changed.items():
                yield from changed_settings(path, how) if isinstance(how, Mapping) else (f"{path} {how}",)


def changed_settings(file: str, parameters: Mapping[str, str]) -> Iterator[str]:
    """Return the parameters of one file that DVC finds changed, each in words."""
    yield from (f"{file}: {name} {how}" for name, how in parameters.items())


def settings_in(status: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return the parameters that DVC finds changed about any stage: what it lists by file and name, and not by path."""
    changed = [kind for entries in status.values() for entry in entries if isinstance(entry, Mapping) for kind in entry.values()]
    by_file = [pair for kind in changed if isinstance(kind, Mapping) for pair in kind.items() if isinstance(pair[1], Mapping)]
    return [setting for file, parameters in by_file for setting in changed_settings(file, parameters)]


def rows_of(plan: Sequence[Planned]) -> list[tuple[str, str, str, str]]:
    """Return the plan as rows of a table: stage, what, why, about how long."""
    return [(each.stage, each.what, each.why, _duration(each)) for each in plan]


def summary_of(plan: Sequence[Planned]) -> str:
    """Return the plan in a sentence."""
    busy = [each for each in plan if each.what != "up to date"]
    if not busy:
        return "nothing would run: everything is up to date"
    known = [each.seconds for each in busy if each.seconds is not None]
    unknown = [each.stage for each in busy if each.seconds is None and not each.stage.endswith(".dvc")]
    total = f"about {say_seconds(sum(known))} in all" if known else "for how long is not known yet"
    rest = f", not counting {', '.join(unknown)}, not timed yet" if known and unknown else ""
    return f"{len(busy)} of {len(plan)} would or may run, {total}{rest}"


def say_seconds(seconds: float) -> str:
    """Return a duration as people say it.

    Example:
        >>> say_seconds(12.3), say_seconds(150), say_seconds(7500)
        ('12 s', '2 min 30 s', '2 h 5 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _shortened(reasons: Sequence[str]) -> str:
    more = f" and {len(reasons) - MOST_REASONS} more" if len(reasons) > MOST_REASONS else ""
    return ", ".join(reasons[:MOST_REASONS]) + more


def _duration(planned: Planned) -> str:
    if planned.what == "up to date" or planned.stage.endswith(".dvc"):
        return ""
    return "not timed yet" if planned.seconds is None else say_seconds(planned.seconds)


def _estimates() -> dict[str, float]:
    """Return how long each stage took last; training's time is its pace by the steps that are asked for now.

    What the last run did with another base says nothing of this one.
    """
    seconds = remembered_seconds()
    last = _last_base()
    if last and last != read_params(PARAMS).get("model", {}).get("path"):
        return {stage: took for stage, took in seconds.items() if stage in WITHOUT_BASE}
    if TRAIN_LOG.exists():
        paces = [json.loads(line)["seconds"] for line in TRAIN_LOG.read_text(encoding="utf-8").splitlines()]
        steps = read_params(PARAMS).get("train", {}).get("max_train_steps")
        if paces and isinstance(steps, int):
            seconds["train"] = statistics.median(paces) * steps
    return seconds


def _last_base() -> str | None:
    """Return the base model that was trained on last, or None where that is not known."""
    try:
        told: dict[str, Any] = json.loads(TRAIN_RUN.read_text(encoding="utf-8"))["params"]["model"]
        return str(told["path"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def main() -> int:
    """Print the plan and return an exit status."""
    words = "What dvc repro would run, why, and for about how long. For other settings, change params.yaml first."
    argparse.ArgumentParser(prog="python -m flows.plan", description=words).parse_args()
    try:
        plan = make_plan()
    except (TloraError, OSError) as error:
        print(f"plan: error: {error}", file=sys.stderr)
        return 2
    rows = [("stage", "what", "why", "about"), *rows_of(plan)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"\n{summary_of(plan)}")
    return _refusal(plan)


def _refusal(plan: Sequence[Planned]) -> int:
    """Say what a stage that may run would refuse by its settings; return an exit status."""
    busy = {each.stage for each in plan if each.what != "up to date"}
    if not (busy & CHECKED and {each.stage for each in plan} >= CHECKED):
        return 0
    try:
        require_all_settings(PARAMS)
    except TloraError as error:
        print(f"plan: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
