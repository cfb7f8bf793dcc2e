"""Stage: draw the fixed prompts at fixed seeds with the bare base and with every checkpoint, and measure.

The pipeline is loaded once and embeddings come from the cache; checkpoints are loaded into the same layers one after another.
Outputs are grids for people, metrics for DVC, and every picture's scores for whoever doubts a mean.
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tasks.album import CHECKPOINTS, write_album
from tasks.cli import run_stage
from tasks.evaluation_page import EvaluationFiles, render_evaluation
from tasks.evaluation_report import write_curves, write_grids
from tasks.scoring import BASE, References, Scores, plain, score_pictures, summarise
from tlora.base_model import ModelSpec, base_digest, require_base
from tlora.checkpoint import WEIGHTS_FILE, attach_adapter, load_tlora_weights, read_metadata
from tlora.concept import read_concept
from tlora.data import PromptCache
from tlora.device import hold_device
from tlora.errors import CheckpointError
from tlora.inject import adapter_layers
from tlora.manifest import read_manifest
from tlora.metrics import embed_pictures, embed_texts, load_evaluator
from tlora.model import choose_device, load_scheduler, load_transformer, load_vae
from tlora.pictures import decode_picture
from tlora.progress import Progress
from tlora.sampling import Painter, SampleSettings, draw_pictures
from tlora.selection import SelectionSettings
from tlora.whole_file import write_json, write_text

FINAL = "final"


@dataclass(frozen=True)
class EvaluateSettings:
    """How checkpoints are measured.

    Args:
        sample: Size, steps, guidance and strength of the pictures.
        selection: The rule that picks a checkpoint.
        evaluator: Folder or hub id of the CLIP that measures.
        evaluator_revision: Its commit on the hub; empty for a folder.
        seeds: Seeds per prompt.
        first_seed: The first of them.
        batch: Pictures drawn at once.
    """

    sample: SampleSettings
    selection: SelectionSettings
    evaluator: str
    evaluator_revision: str = ""
    seeds: int = 4
    first_seed: int = 1000
    batch: int = 8

    def __post_init__(self) -> None:
        if self.seeds < 2:
            raise ValueError(f"seeds must be at least 2 (diversity compares them), got {self.seeds}")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")

    @property
    def all_seeds(self) -> range:
        """The seeds that every prompt is drawn with."""
        return range(self.first_seed, self.first_seed + self.seeds)


def evaluate(
    settings: EvaluateSettings,
    model: ModelSpec,
    *,
    adapters: Path,
    prompts: Path,
    data: Path,
    manifest: Path,
    held_out: Path,
    concept: Path,
    metrics: Path,
    grids: Path,
    pictures: Path,
    report: Path,
) -> None:
    """Draw, measure, and recommend a checkpoint.

    Args:
        settings: Section `evaluate`.
        model: Section `model`.
        adapters: Folder of checkpoints.
        prompts: Cached embeddings of the evaluation prompts.
        data: Folder of the pictures.
        manifest: Training pictures.
        held_out: Held-out pictures.
        concept: concept.yaml, for the prompts.
        metrics: Output file, JSON.
        grids: Output folder of labelled picture grids.
        pictures: Output folder of single pictures.
        report: Output folder: report.html, scores and curves.
    """
    require_base(model)
    checkpoints = find_checkpoints(adapters, model)
    wanted = read_concept(concept).prompts
    started = time.monotonic()
    evaluator = load_evaluator(settings.evaluator, settings.evaluator_revision)
    references = References(
        embed_pictures(evaluator, [decode_picture(data / i.picture) for i in read_manifest(manifest).items]),
        embed_pictures(evaluator, [decode_picture(data / i.picture) for i in read_manifest(held_out).items]),
        embed_texts(evaluator, wanted),
    )
    drawn: dict[str, list[list[Image.Image]]] = {}
    scores: dict[str, Scores] = {}
    embeddings = PromptCache(prompts).read(wanted)
    with hold_device(str(choose_device(model)), "evaluate"):
        for name, rows in _draw_all(settings, model, checkpoints, embeddings):
            drawn[name] = rows
            embedded = embed_pictures(evaluator, [picture for row in rows for picture in row])
            scores[name] = score_pictures(embedded, references, len(wanted))
    steps = {name: read_metadata(folder / WEIGHTS_FILE).step for name, folder in checkpoints.items()}
    result = summarise(scores, steps, settings.selection)
    write_grids(grids, drawn, wanted)
    write_album(pictures, {CHECKPOINTS: drawn}, wanted, settings.all_seeds)
    write_curves(report, result["checkpoints"])
    write_json(report / "setup.json", _setup(settings, wanted, embeddings[0].shape[1]))
    write_json(report / "scores.json", {name: plain(s) for name, s in scores.items()})
    write_json(metrics, result)
    files = EvaluationFiles(metrics, report / "setup.json", pictures, manifest, held_out, data)
    last = read_metadata([*checkpoints.values()][-1] / WEIGHTS_FILE)
    write_text(report / "report.html", render_evaluation(files, last))
    print(f"evaluate: {result['reason']}; see {report / 'report.html'}", flush=True)
    print(
        f"evaluate: {time.monotonic() - started:.0f} s for {len(scores)} x {len(wanted)} x {settings.seeds} pictures", flush=True
    )


def find_checkpoints(adapters: Path, model: ModelSpec) -> dict[str, Path]:
    """Return the folders of the checkpoints by name, in the order of their steps; `final` only where no other is its twin.

    Raises:
        CheckpointError: If there is none, or one was trained on another base.
    """
    found = {p.name: p for p in sorted(adapters.glob("*/")) if (p / WEIGHTS_FILE).exists()}
    steps = {name: read_metadata(folder / WEIGHTS_FILE) for name, folder in found.items()}
    for name, metadata in steps.items():
        if metadata.base != model.path:
            raise CheckpointError(
                f"{found[name]}: trained on {metadata.base}, not on {model.path}: train again, or set model.path back"
            )
    if FINAL in found and any(m.step == steps[FINAL].step for name, m in steps.items() if name != FINAL):
        del found[FINAL]
    if not found:
        raise CheckpointError(f"{adapters}: no checkpoints to evaluate: run train first")
    return dict(sorted(found.items(), key=lambda pair: steps[pair[0]].step))


def _draw_all(
    settings: EvaluateSettings, model: ModelSpec, checkpoints: Mapping[str, Path], embeddings: tuple[Tensor, Tensor]
) -> Iterator[tuple[str, list[list[Image.Image]]]]:
    """Yield, for the base and each checkpoint, its pictures: a row of seeds for each prompt."""
    painter = Painter(load_transformer(model).eval(), load_vae(model), load_scheduler(model))
    batches = -(-len(embeddings[0]) * settings.seeds // settings.batch)
    with Progress("evaluate", batches * (1 + len(checkpoints))) as progress:
        yield BASE, _draw(painter, settings, embeddings, progress)
        for name, folder in checkpoints.items():
            if adapter_layers(painter.transformer):
                load_tlora_weights(painter.transformer, folder / WEIGHTS_FILE)
            else:
                attach_adapter(painter.transformer, folder / WEIGHTS_FILE)
                painter.transformer.eval()
            yield name, _draw(painter, settings, embeddings, progress)


def _draw(
    painter: Painter, settings: EvaluateSettings, embeddings: tuple[Tensor, Tensor], progress: Progress
) -> list[list[Image.Image]]:
    cells = [(prompt, seed) for prompt in range(len(embeddings[0])) for seed in settings.all_seeds]
    drawn: list[Image.Image] = []
    for first in range(0, len(cells), settings.batch):
        batch = cells[first : first + settings.batch]
        rows = torch.tensor([prompt for prompt, _ in batch])
        drawn += draw_pictures(painter, (embeddings[0][rows], embeddings[1][rows]), [s for _, s in batch], settings.sample)
        progress.advance()
    return [drawn[i : i + settings.seeds] for i in range(0, len(drawn), settings.seeds)]


def _setup(settings: EvaluateSettings, prompts: Sequence[str], text_length: int) -> dict[str, Any]:
    """Return how the pictures were drawn and measured: what must be equal before two evaluations are compared."""
    return {
        "drawing": {**dataclasses.asdict(settings.sample), "max_sequence_length": text_length},
        "prompts": list(prompts),
        "seeds": list(settings.all_seeds),
        "evaluator": settings.evaluator,
        "evaluator_revision": settings.evaluator_revision or base_digest(ModelSpec(settings.evaluator)),
    }


if __name__ == "__main__":
    run_stage(evaluate)
