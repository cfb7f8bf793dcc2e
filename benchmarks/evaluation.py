"""What evaluation costs beyond drawing its pictures: the whole stage against the bare drawing of the same pictures.

Five checkpoints of random weights on the pocket FLUX, the shipped prompts at two seeds, and three strengths of one of them.
"""

import argparse
import contextlib
import dataclasses
import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.measure import machine, ratio, take_turns
from tasks.cache_latents.stage import cache_latents
from tasks.cache_prompts.stage import cache_prompts
from tasks.evaluate.drawing import Column, PictureDrawer
from tasks.evaluate.kept import KeptPictures
from tasks.evaluate.settings import EvaluateSettings
from tasks.evaluate.stage import evaluate
from tasks.running.cli import read_section
from tasks.validate.checks import ValidateSettings
from tasks.validate.stage import validate
from tlora.checkpoint import save_tlora_weights
from tlora.evaluation.race import RaceSettings
from tlora.flux.cached import PromptCache
from tlora.flux.model import load_scheduler, load_transformer, load_vae
from tlora.flux.spec import ModelSpec
from tlora.inject import inject_tlora_into_transformer, tlora_parameters
from tlora.metadata.adapter import BASE, WEIGHTS_FILE, AdapterMetadata
from tlora.metadata.concept import Concept, read_concept
from tlora.metadata.config import TLoRAConfig
from tlora.pictures.tokens import TextSettings
from tlora.pictures.views import ViewSettings
from tlora.runtime.settings import parse_settings
from tlora.sampling import Painter

MODEL = ModelSpec("models/pocket-flux", dtype="float32")
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
LIMIT = 90  # seconds, what five checkpoints of six prompts at two seeds may take on two cores
MANIFESTS = {"manifest": Path("artifacts/train.json"), "held_out": Path("artifacts/held_out.json")}
CACHES = {
    "prompts": Path("cache/evaluation"),
    "captions": Path("cache/captions"),
    "latents": Path("cache/train"),
    "held_out_latents": Path("cache/held_out"),
}
OUTPUTS = {name: Path(f"out/{name}") for name in ("grids", "pictures", "recommended", "report")} | {
    "metrics": Path("out/evaluate.json")
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=main.__doc__)
    parser.add_argument("--smoke", action="store_true", help="one checkpoint, few steps, one round")
    smoke = parser.parse_args(arguments).smoke
    checkpoints, rounds, warm_up = (1, 1, 0) if smoke else (5, 3, 1)
    settings = parse_settings(EvaluateSettings, read_section(Path("params.yaml"), "evaluate"), "params.yaml: evaluate")
    sample = dataclasses.replace(settings.sample, num_inference_steps=2) if smoke else settings.sample
    settings = dataclasses.replace(settings, seeds=2, sample=sample, racing=RaceSettings(race=False))
    with _working_folder(checkpoints):
        concept = read_concept(Path("concept.yaml"))
        prompts, strengths = concept.prompts, sum(scale != settings.sample.lora_scale for scale in settings.scales)
        count = 2 * (len(prompts) + len(concept.other_prompts)) * (1 + checkpoints) + len(prompts) * strengths
        contenders = {
            "the whole stage": lambda: _evaluate(settings),
            "bare drawing": lambda: _draw(settings, concept),
        }
        with contextlib.redirect_stdout(io.StringIO()):
            seconds = take_turns(contenders, rounds, warm_up)
    print(f"{machine()}; {checkpoints} checkpoints and the base, {len(prompts)} prompts, 2 seeds: {count} pictures\n")
    print("| | seconds | pictures/s | against bare drawing |\n| --- | --- | --- | --- |")
    for name, times in seconds.items():
        middle = sorted(times)[len(times) // 2]
        print(f"| {name} | {middle:.1f} | {count / middle:.1f} | {ratio(seconds, name, 'bare drawing'):.2f} |")
    if not smoke:
        print(f"\nWanted: the whole stage in under {LIMIT} s.")


def _evaluate(settings: EvaluateSettings) -> None:
    inputs = {"adapters": Path("adapters"), "data": Path("data/images"), "concept": Path("concept.yaml")}
    evaluate(settings, MODEL, **inputs, **MANIFESTS, **CACHES, **OUTPUTS)


def _draw(settings: EvaluateSettings, concept: Concept) -> None:
    """Draw what the stage draws, batch by batch, and do nothing with it."""
    painter = Painter(load_transformer(MODEL).eval(), load_vae(MODEL), load_scheduler(MODEL))
    texts = [*concept.prompts, *concept.other_prompts]
    extent, embeddings = settings.extent(concept), PromptCache(CACHES["prompts"]).read(texts)
    with tempfile.TemporaryDirectory() as folder:
        drawer = PictureDrawer(painter, embeddings, settings.sample, settings.batch, KeptPictures(Path(folder), {}))
        columns = [Column(path.name, path, 1.0) for path in sorted(Path("adapters").iterdir())]
        cells = [*extent.turns, extent.other_cells]
        wanted = [(column, part) for column in (Column(BASE, None, 1.0), *columns) for part in cells]
        wanted += [(Column("strength", columns[-1].adapter, scale), extent.first_seed) for scale in settings.scales if scale != 1]
        for column, part in wanted:
            for batch in drawer.batches(column, part):
                drawer.draw(batch)


@contextlib.contextmanager
def _working_folder(checkpoints: int) -> Iterator[None]:
    """Work in a folder with what the stages before would have left there."""
    start = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name in ("data", "models", "concept.yaml"):
            Path(name).symlink_to(start / name)
        with contextlib.redirect_stdout(io.StringIO()):
            _fill(checkpoints)
        yield


def _fill(checkpoints: int) -> None:
    data, concept, views, text = Path("data/images"), Path("concept.yaml"), ViewSettings(64, random_flip=True), TextSettings(77)
    validate(ValidateSettings(), MODEL, views, text, data=data, concept=concept, manifest=Path("artifacts"), report=Path("v"))
    cache_prompts(text, MODEL, **MANIFESTS, concept=concept, captions=CACHES["captions"], evaluation=CACHES["prompts"])
    cache_latents(views, MODEL, **MANIFESTS, data=data, train=CACHES["latents"], evaluation=CACHES["held_out_latents"])
    transformer, config = load_transformer(MODEL), TLoRAConfig(rank=16, min_rank=1)
    inject_tlora_into_transformer(transformer, TARGETS, config)
    for step in range(1, checkpoints + 1):
        for parameter in tlora_parameters(transformer):
            torch.nn.init.normal_(parameter, std=0.01, generator=torch.Generator().manual_seed(step))
        described = AdapterMetadata(config, TARGETS, base=MODEL.path, concept="brick", trigger="matbrk", step=step)
        save_tlora_weights(transformer, Path(f"adapters/checkpoint-{step:06d}") / WEIGHTS_FILE, described)


if __name__ == "__main__":
    main()
