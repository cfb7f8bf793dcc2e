"""The page that a flow leaves behind: what ran, what was measured, with which settings."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flows.stages import StageRun
from tasks.register.registration import Registration, read_registration
from tasks.running.cli import read_params
from tasks.tracking.runs import DECIDING
from tlora.errors import SettingsError
from tlora.evaluation.intervals import Interval
from tlora.metadata.adapter import BASE

METRICS = Path("reports/evaluate/evaluate.json")
DATA_CHANGES = Path("reports/register/data_changes.md")
PARAMS = Path("params.yaml")
SECTIONS = ("model", "train")  # what an adapter is made of; the rest of params.yaml is a click away


def run_report(runs: list[StageRun], order: list[str]) -> str:
    """Return the markdown report of a run.

    Args:
        runs: The stages that were reached, in order.
        order: Every stage there is.
    """
    rows: list[tuple[str, ...]] = [(run.stage, run.outcome, f"{run.seconds:.1f}", run.reason) for run in runs]
    rows += [(stage, "not reached", "", "") for stage in order[len(runs) :]]
    parts = ["# Pipeline", table(("stage", "state", "seconds", "reason"), rows)]
    if METRICS.exists() and any(run.stage == "evaluate" and not run.reason for run in runs):
        parts += metrics_report(json.loads(METRICS.read_text(encoding="utf-8")))
    if any(run.stage == "register" and not run.reason for run in runs) and (registration := read_registration()):
        parts += registration_report(registration)
    parts += _params_report()
    return "\n\n".join(parts) + "\n"


def data_report(runs: list[StageRun]) -> str | None:
    """Return what `register` wrote of the data since the champion's, as Markdown; None where it did not run."""
    registered = any(run.stage == "register" and not run.reason for run in runs)
    return DATA_CHANGES.read_text(encoding="utf-8") if registered and DATA_CHANGES.exists() else None


def metrics_report(metrics: Mapping[str, Any]) -> list[str]:
    """Return, for every number of an evaluation, which checkpoint is recommended, all of them, and that one's scores."""
    checkpoints: Mapping[str, Mapping[str, Any]] = metrics["checkpoints"]
    recommended = metrics["recommended"] or "none"
    parts = ["## Metrics", f"Recommended: **{recommended}**. {metrics['reason']}"]
    deciding = [name for name in (*DECIDING, "objections") if any(name in values for values in checkpoints.values())]
    rows = [(checkpoint, *(_short(values.get(name, "")) for name in deciding)) for checkpoint, values in checkpoints.items()]
    parts.append(table(("checkpoint", *deciding), rows))
    if recommended in checkpoints:
        base, own = checkpoints.get(BASE, {}), checkpoints[recommended]
        scores = [(name, _cell(base.get(name, "")), _cell(value)) for name, value in own.items() if isinstance(value, Mapping)]
        parts.append(table(("metric", BASE, recommended), scores))
    return parts


def registration_report(told: Registration) -> list[str]:
    """Return where the adapter is registered, and its scores beside the champion's."""
    run = f"[{told.run}]({told.run_address})" if told.run_address else told.run
    aliases = ", ".join(told.aliases) or "no alias"
    parts = ["## Registered", f"{told.model}, version {told.version} ({aliases}), MLflow run {run}."]
    if not told.champion or told.champion == told.version:
        return [*parts, "It is the champion." if told.champion else "There is no champion to compare it with."]
    if not told.comparable:
        return [*parts, f"The champion, version {told.champion}, was evaluated otherwise: the two cannot be compared."]
    names = [name for name in told.scores if name in told.champion_scores]
    rows = [
        (name, f"{(mine := told.scores[name]):.3f}", f"{(its := told.champion_scores[name]):.3f}", f"{mine - its:+.3f}")
        for name in names
    ]
    return [*parts, table(("metric", "this run", f"champion, version {told.champion}", "difference"), rows)]


def _params_report() -> list[str]:
    try:
        params = read_params(PARAMS)
    except SettingsError as error:
        return ["## Settings", str(error)]
    chosen = {name: params[name] for name in SECTIONS if isinstance(params.get(name), Mapping)}
    rows = [(f"{section}.{key}", str(value)) for section, values in chosen.items() for key, value in values.items()]
    return ["## Settings", table(("setting", "value"), rows)] if rows else []


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        value = value["mean"]
    return "; ".join(value) if isinstance(value, list) else f"{value:.3f}" if isinstance(value, float) else str(value)


def _cell(value: Any) -> str:
    if not isinstance(value, Mapping):
        return _short(value)
    interval = Interval(*(value[part] for part in ("mean", "low", "high")))
    return f"{interval}, {value['prompt']}" if "prompt" in value else str(interval)  # the worst prompt is named


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown."""
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
