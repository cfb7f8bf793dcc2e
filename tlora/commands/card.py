"""`tlora card`: a model card beside an adapter, ready for the Hugging Face hub; from files only."""

import argparse
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tlora.errors import SettingsError
from tlora.flux.spec import ModelSpec
from tlora.metadata.adapter import BASE
from tlora.runtime.atomic_file import write_text
from tlora.runtime.disk import require_writable
from tlora.runtime.settings import read_mapping
from tlora.trust.licences import licences_here

if TYPE_CHECKING:
    from tlora.exchange.hub_card import Evaluated

CARD, GRID = "README.md", "grid.png"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("adapter", type=Path, help="adapter folder or .safetensors file")
    parser.add_argument("--outdir", type=Path, help="folder for card, adapter and grid; default: where the adapter is")
    add_evaluation_options(parser)


def add_evaluation_options(parser: argparse.ArgumentParser) -> None:
    """Add where numbers and grid are found."""
    parser.add_argument(
        "--metrics", type=Path, default=Path("reports/evaluate/evaluate.json"), help="evaluation's numbers, if there are any"
    )
    parser.add_argument("--grid", type=Path, default=Path("artifacts/grids/grid.png"), help="picture to show, if there is one")


def run(options: argparse.Namespace) -> None:
    """Write the card."""
    from tlora.metadata.adapter import find_weights

    file = find_weights(options.adapter)
    folder = options.outdir or file.parent
    if options.outdir is None:
        _refuse_pipeline_output(file)
    if (folder / CARD).exists():
        raise SettingsError(f"{folder / CARD}: exists: move it away, or choose another --outdir")
    require_writable(folder)
    is_evaluated = fill_folder(folder, file, options.metrics, options.grid)
    print(f"{folder / CARD}{'' if is_evaluated else f' (not evaluated: nothing in {options.metrics})'}")


def fill_folder(folder: Path, file: Path, metrics: Path, grid: Path) -> bool:
    """Put adapter, grid and card into a folder, and return whether there are numbers.

    Args:
        folder: Where.
        file: The adapter's file.
        metrics: The evaluation's numbers, if there are any.
        grid: Picture to show, if there is one.
    """
    from tlora.checkpoint import read_adapter
    from tlora.exchange.hub_card import Card, model_card
    from tlora.metadata.adapter import adapter_digest

    _, metadata = read_adapter(file)
    evaluation = _evaluation(metrics, metadata.step)
    if (folder / file.name).resolve() != file.resolve():
        shutil.copyfile(file, folder / file.name)
    if grid.is_file():
        shutil.copyfile(grid, folder / GRID)
    base_is_on_hub = bool(metadata.base) and not ModelSpec(metadata.base).is_folder
    shown, licences = GRID if grid.is_file() else "", licences_here(metadata.base)
    card = Card(metadata, file.name, adapter_digest(file), shown, evaluation, base_is_on_hub, licences)
    write_text(folder / CARD, model_card(card))
    return bool(evaluation.scores)


def _evaluation(metrics: Path, step: int) -> "Evaluated":
    """Return what an evaluation says of the checkpoint of a step; nothing where there is no evaluation, or not of it."""
    from tlora.exchange.hub_card import Evaluated

    if not metrics.is_file():
        return Evaluated()
    try:
        told = json.loads(metrics.read_text(encoding="utf-8"))
        steps = {name: scores["step"] for name, scores in told["checkpoints"].items() if name != BASE}
        mine = next((name for name, own in steps.items() if own == step), None)
        if mine is None:
            return Evaluated()
        recommended, reason, drawing = told.get("recommended"), told.get("reason", ""), told.get("setup", {}).get("drawing", {})
        same = recommended is not None and steps[recommended] == step
        return Evaluated(told["checkpoints"][mine], told["checkpoints"][BASE], _verdict(recommended, reason, same=same), drawing)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"{metrics}: not what evaluate writes: run it again, or name another file") from error


def _verdict(recommended: str | None, reason: str, *, same: bool) -> str:
    if same:
        return f"Recommended by the evaluation. {reason}."
    if recommended:
        return f"**Not the recommended one.** The evaluation recommends {recommended}, another step of the same run. {reason}."
    return f"**The evaluation recommends none of its run.** {reason}." if reason else ""


def _refuse_pipeline_output(file: Path) -> None:
    """Keep out of folders that a dvc.yaml declares as outputs: one more file there, and training would be stale."""
    for parent in file.resolve().parents:
        if not (parent / "dvc.yaml").is_file():
            continue
        stages = read_mapping(parent / "dvc.yaml", "a mapping of stages", "").get("stages", {})
        outs = [out if isinstance(out, str) else next(iter(out)) for stage in stages.values() for out in stage.get("outs", [])]
        if any((parent / out).resolve() in file.resolve().parents for out in outs):
            raise SettingsError(
                f"{file.parent} is an output of the pipeline, where a new file would mark its stage as changed: give --outdir"
            )
