"""What caching saves: a training step of the stage, against loops that encode the picture, or picture and caption, at every step.

The latter two are what the old scripts and their relatives do. All train on the shipped pictures and the pocket FLUX with
the settings of params.yaml and draw the same views, noise and levels, so their losses must be equal but for rounding.
"""

import argparse
import contextlib
import dataclasses
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from benchmarks.measure import machine, ratio, take_turns
from tasks.cache_latents.stage import cache_latents
from tasks.cache_prompts.stage import cache_prompts
from tasks.running.cli import read_section
from tasks.train.identity import TrainSettings
from tasks.validate.checks import ValidateSettings
from tasks.validate.stage import validate
from tlora.data import CaptionDataset
from tlora.flux.cached import LatentCache, LatentItem, PromptCache
from tlora.flux.latents import PATCH
from tlora.flux.model import encode_posterior, load_transformer, load_vae, pixels_per_latent
from tlora.flux.spec import ModelSpec
from tlora.inject import inject_tlora_into_transformer
from tlora.pictures.manifest import read_manifest
from tlora.pictures.tokens import TextSettings
from tlora.pictures.views import ViewSettings
from tlora.runtime.settings import parse_settings
from tlora.text import encode_captions, load_text_encoders
from tlora.training.loop import StepReport, Training

MODEL = ModelSpec("models/pocket-flux", dtype="float32", device="cpu")
STAGE, WARM_UP = "the stage, from its caches", 3
DATA, MANIFEST, PROMPTS, LATENTS = Path("data/images"), Path("manifest"), Path("captions"), Path("latents")
Reader = Callable[[Sequence[str]], tuple[Tensor, Tensor]]


class EncodedEveryTime(Sequence[LatentItem]):
    """The views of the cache, decoded and encoded whenever one is asked for."""

    def __init__(self, views: ViewSettings) -> None:
        self._vae = load_vae(MODEL)
        names = [item.picture for item in read_manifest(MANIFEST / "train.json").items]
        self._pictures = CaptionDataset(DATA, views, pixels_per_latent(self._vae) * PATCH, names)

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> LatentItem:  # type: ignore[override]
        picture = self._pictures[index]
        mean, std = encode_posterior(self._vae, picture.pixels[None])
        return LatentItem(picture.name, picture.caption, mean[0], std[0])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stage", description=main.__doc__)
    parser.add_argument("--smoke", action="store_true", help="two steps")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args(arguments)
    steps, warm_up = (2, 0) if options.smoke else (options.steps, WARM_UP)
    train = parse_settings(TrainSettings, read_section(Path("params.yaml"), "train"), "params.yaml: train")
    views = parse_settings(ViewSettings, read_section(Path("params.yaml"), "cache_latents"), "params.yaml: cache_latents")
    text = parse_settings(TextSettings, read_section(Path("params.yaml"), "cache_prompts"), "params.yaml: cache_prompts")
    with _working_folder():
        filling = _fill_caches(views, text)
        runs = _runs(_shortened(train, steps + warm_up), views, text)
        losses: dict[str, list[float]] = {name: [] for name in runs}
        contenders = {name: partial(_step, run, losses[name]) for name, run in runs.items()}
        seconds = take_turns(contenders, steps, warm_up)
    print(
        f"{machine()}; {steps} steps of batch {train.training.loop.train_batch_size}; filling the caches took {filling:.1f} s\n"
    )
    _print_table(seconds, losses)


def _step(run: Iterator[StepReport], losses: list[float]) -> None:
    losses.append(next(run).loss)


def _print_table(seconds: Mapping[str, list[float]], losses: Mapping[str, list[float]]) -> None:
    print("| a training step | ms | against the stage | largest difference of a loss |\n| --- | --- | --- | --- |")
    for name, times in seconds.items():
        apart = max(abs(a - b) for a, b in zip(losses[name], losses[STAGE], strict=True))
        print(f"| {name} | {statistics.median(times) * 1e3:.0f} | {ratio(seconds, name, STAGE):.2f} | {apart:.1e} |")


def _runs(train: TrainSettings, views: ViewSettings, text: TextSettings) -> dict[str, Iterator[StepReport]]:
    """Return three runs that differ only in where latents and embeddings come from."""
    cache, every_time, encoders = LatentCache(LATENTS), EncodedEveryTime(views), load_text_encoders(MODEL)

    def encode(captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        found = dict(encode_captions(encoders, captions, text.max_sequence_length))
        rows = [found[caption] for caption in captions]
        return torch.stack([row.prompt_embeds for row in rows]), torch.stack([row.pooled_prompt_embeds for row in rows])

    sources: dict[str, tuple[Sequence[LatentItem], Reader]] = {
        STAGE: (cache, PromptCache(PROMPTS).read),
        "the picture encoded at every step": (every_time, PromptCache(PROMPTS).read),
        "picture and caption encoded at every step": (every_time, encode),
    }
    accelerator = Accelerator(mixed_precision=train.mixed_precision, cpu=True)
    runs = {}
    for name, (latents, read_prompts) in sources.items():
        transformer, settings = load_transformer(MODEL), train.training
        inject_tlora_into_transformer(
            transformer, train.target_modules, settings.adapter, seed=settings.loop.seed, leave_blocks_out=train.leave_blocks_out
        )
        runs[name] = Training(transformer, settings, accelerator).steps(latents, cache.shapes(), read_prompts)
    return runs


def _shortened(train: TrainSettings, steps: int) -> TrainSettings:
    loop = dataclasses.replace(train.training.loop, max_train_steps=steps, gradient_accumulation_steps=1)
    training = dataclasses.replace(train.training, loop=loop)
    return dataclasses.replace(train, training=training, checkpointing_steps=1)


def _fill_caches(views: ViewSettings, text: TextSettings) -> float:
    """Run the stages before training and return the seconds of both cache stages."""
    with contextlib.redirect_stdout(io.StringIO()):
        concept = Path("concept.yaml")
        validate(ValidateSettings(), MODEL, views, text, data=DATA, concept=concept, manifest=MANIFEST, report=Path("v"))
        sides = {"manifest": MANIFEST / "train.json", "held_out": MANIFEST / "held_out.json"}
        started = time.perf_counter()
        cache_prompts(text, MODEL, **sides, concept=concept, captions=PROMPTS, evaluation=Path("prompts"))
        cache_latents(views, MODEL, **sides, data=DATA, train=LATENTS, evaluation=Path("held_out"))
        return time.perf_counter() - started


@contextlib.contextmanager
def _working_folder() -> Iterator[None]:
    start = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name in ("data", "models", "concept.yaml"):
            Path(name).symlink_to(start / name)
        yield


if __name__ == "__main__":
    main()
