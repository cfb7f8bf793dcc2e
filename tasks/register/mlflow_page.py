"""The page of a run and of a registered version, in the Markdown that MLflow's UI renders: what, how good, and the grid.

Addresses are relative to the UI, and therefore hold wherever the server stands; a picture comes from the run's artifacts.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from tlora.evaluation.intervals import Interval
from tlora.metadata.adapter import BASE

GRID, PREVIEW = "grids/grid.png", "grids/preview.png"  # among the run's artifacts
PREVIEW_WIDTH = 800  # pixels; Markdown cannot say how wide a picture is to be shown
_MOST_ROWS = 12  # MLflow keeps 5000 characters of a description
_COLUMNS = {
    "similarity_train": "similarity to training",
    "similarity_held_out": "to held-out",
    "similarity_gain": "similarity gain",
    "prompt_following": "prompt following over base",
    "lost_prompts": "lost prompts",
    "drift": "drift of others",
    "diversity_ratio": "diversity against base",
}


def model_page(paragraphs: Sequence[str], table: str, facts: Mapping[str, str], run_id: str) -> str:
    """Return the page.

    Args:
        paragraphs: What it is, why this checkpoint, whether it passes the gate.
        table: From `metrics_table`.
        facts: What it was made from; empty values are left out.
        run_id: Whose artifacts hold the grid.
    """
    listed = "\n".join(f"- {name}: `{value}`" for name, value in facts.items() if value)
    picture = f"![evaluation grid]({_address(PREVIEW, run_id)})"
    return "\n\n".join([*paragraphs, table, picture, f"[The grid at full size]({_address(GRID, run_id)})", listed])


def model_introduction(concept: str, trigger: str, base: str) -> str:
    """Return what is said of a registered model, whichever its versions."""
    return (
        f"T-LoRA adapters of **{concept}** (trigger word `{trigger}`) for {base}. `champion` is the one in use, `challenger` the"
        " newest, `previous` the champion before. The page of a version has its scores, its grid and what it was made from."
    )


def comparable_runs(experiment_id: str, evaluation_digest: str) -> str:
    """Return a link to all runs that were evaluated with the same prompts, seeds, pictures and evaluator."""
    wanted = quote(f"tags.evaluation_digest = '{evaluation_digest}'", safe="")
    return f"[Runs evaluated in the same way](#/experiments/{experiment_id}/runs?searchFilter={wanted})"


def metrics_table(checkpoints: Mapping[str, Mapping[str, Any]], chosen: str) -> str:
    """Return the evaluation as a table: the base, the last checkpoints, and the chosen one in bold."""
    others = sorted(set(checkpoints) - {BASE, chosen}, key=lambda name: int(checkpoints[name]["step"]))
    shown = {BASE, chosen, *others[-_MOST_ROWS:]}
    lines = [["checkpoint", *_COLUMNS.values()], ["---"] * (1 + len(_COLUMNS))]
    for name, scores in sorted(checkpoints.items(), key=lambda entry: int(entry[1]["step"])):
        if name in shown:
            lines.append([f"**{name}**" if name == chosen else name, *(_cell(scores.get(column)) for column in _COLUMNS)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _address(artifact: str, run_id: str) -> str:
    return f"get-artifact?path={quote(artifact, safe='')}&run_uuid={run_id}"


def _cell(value: Any) -> str:
    if value is None:
        return "not drawn"  # or not measured then; left behind in the race before there was enough to measure it
    return str(Interval(**value)) if isinstance(value, Mapping) else f"{value:g}"
