"""Real runs of the pipeline's stages on the concepts and seeds of `make compare`, each evaluated in full, and kept as scores."""

import contextlib
import dataclasses
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from benchmarks.comparison.concepts import Concept, all_concepts
from benchmarks.comparison.measures import CAPTION
from pocket.scenes import compose
from tasks.cache_latents.stage import cache_latents
from tasks.cache_prompts.stage import cache_prompts
from tasks.evaluate.settings import EvaluateSettings
from tasks.evaluate.stage import evaluate
from tasks.running.cli import read_section
from tasks.train.identity import TrainSettings
from tasks.train.stage import train
from tasks.validate.checks import ValidateSettings
from tasks.validate.stage import validate
from tlora.evaluation.race import RaceSettings
from tlora.flux.spec import ModelSpec
from tlora.pictures.tokens import TextSettings
from tlora.pictures.views import ViewSettings
from tlora.runtime.settings import parse_settings, read_mapping

MODEL = ModelSpec("models/pocket-flux", dtype="float32", device="cpu")
PICTURES, HELD_OUT = 9, 3  # as many as are shipped of the brick
DATA, CONCEPT, SCORES = Path("data/images"), Path("concept.yaml"), Path("report/scores.json")
SIDES = {"manifest": Path("manifest/train.json"), "held_out": Path("manifest/held_out.json")}


@dataclass(frozen=True)
class Run:
    """One concept learnt with one seed."""

    concept: Concept
    seed: int

    @property
    def name(self) -> str:
        """What the run is called."""
        return f"{self.concept.name}, seed {self.seed}"

    def scores(self, work: Path) -> Path:
        """Return the file of its scores; where it exists, the run is done."""
        return work / f"{self.concept.name}-{self.seed}" / SCORES


def all_runs() -> list[Run]:
    """Return every concept of the comparison with both of its seeds."""
    return [Run(concept, seed) for concept in all_concepts() for seed in (0, 1)]


def run_stages(run: Run, work: Path) -> None:
    """Do all stages of a run that has no scores yet, by the settings of params.yaml, in a folder of its own below `work`."""
    root, folder = Path.cwd(), run.scores(work).parents[1]
    params = root / "params.yaml"
    train_settings = parse_settings(TrainSettings, read_section(params, "train"), "params.yaml: train")
    loop = dataclasses.replace(train_settings.training.loop, seed=run.seed)
    train_settings = dataclasses.replace(train_settings, training=dataclasses.replace(train_settings.training, loop=loop))
    judged = parse_settings(EvaluateSettings, read_section(params, "evaluate"), "params.yaml: evaluate")
    judged = dataclasses.replace(judged, racing=RaceSettings(race=False))
    views = parse_settings(ViewSettings, read_section(params, "cache_latents"), "params.yaml: cache_latents")
    text = parse_settings(TextSettings, read_section(params, "cache_prompts"), "params.yaml: cache_prompts")
    with _filled_folder(run, root, folder), contextlib.redirect_stdout(io.StringIO()):
        validate(ValidateSettings(), MODEL, views, text, data=DATA, concept=CONCEPT, manifest=Path("manifest"), report=Path("v"))
        captions, prompts = Path("cache/captions"), Path("cache/prompts")
        latents, unseen = Path("cache/train"), Path("cache/held_out")
        cache_prompts(text, MODEL, **SIDES, concept=CONCEPT, captions=captions, evaluation=prompts)
        cache_latents(views, MODEL, **SIDES, data=DATA, train=latents, evaluation=unseen)
        made = {"concept": CONCEPT, "adapters": Path("adapters")}
        train(train_settings, MODEL, prompts=captions, latents=latents, prior=Path("cache/prior"), report=Path("trained"), **made)
        seen = {"captions": captions, "prompts": prompts, "latents": latents, "held_out_latents": unseen, "data": DATA, **SIDES}
        shown = {"grids": Path("grids"), "pictures": Path("pictures"), "recommended": Path("recommended")}
        evaluate(judged, MODEL, **made, **seen, **shown, metrics=Path("evaluate.json"), report=SCORES.parent)


def _wall(concept: Concept, index: int) -> NDArray[np.uint8]:
    """Return a part of its own of an endless wall of the concept, (64, 64, 3); the comparison trains on the first alone."""
    right, down = (0.0, 0.0) if index == 0 else np.random.default_rng([77, index]).uniform(0, 3, 2)
    return compose("wall", lambda u, v: concept.texture(u + np.float32(right), v + np.float32(down)), np.random.default_rng(0))


@contextlib.contextmanager
def _filled_folder(run: Run, root: Path, folder: Path) -> Iterator[None]:
    """Work in a folder with the concept's pictures and the shipped models."""
    (folder / DATA).mkdir(parents=True, exist_ok=True)
    if not (folder / "models").exists():
        (folder / "models").symlink_to(root / "models")
    for index in range(PICTURES):
        picture = folder / DATA / f"wall_{index}.png"
        Image.fromarray(_wall(run.concept, index)).save(picture)
        picture.with_suffix(".txt").write_text(CAPTION, encoding="utf-8")
    concept = read_mapping(root / CONCEPT, "a concept", "")
    concept["held_out"] = [f"wall_{2 * i + 1}.png" for i in range(HELD_OUT)]
    (folder / CONCEPT).write_text(yaml.safe_dump(concept), encoding="utf-8")
    with contextlib.chdir(folder):
        yield
