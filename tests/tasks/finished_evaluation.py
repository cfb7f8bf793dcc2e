"""What an evaluation leaves for its page, made up: numbers that go somewhere, pictures that can be told apart."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tasks.evaluate.page import EvaluationFiles, render_evaluation
from tasks.results.album import CHECKPOINTS, write_album
from tests.tasks.data_folder import texture
from tlora.metadata.adapter import AdapterMetadata
from tlora.metadata.config import TLoRAConfig
from tlora.pictures.decode import picture_digest
from tlora.pictures.manifest import PictureItem, build_manifest, manifest_to_json


@dataclass(frozen=True)
class Shape:
    """How much was drawn."""

    checkpoints: int = 3
    prompts: int = 3
    seeds: int = 2
    side: int = 64


def lay_out(
    root: Path, shape: Shape, name: str = "brick", prompts: list[str] | None = None
) -> tuple[EvaluationFiles, AdapterMetadata]:
    """Fill a folder; `prompts` are the first ones, `name` is the first picture's."""
    wanted = [*(prompts or []), *(f"a matbrk wall, number {n}" for n in range(shape.prompts))][: shape.prompts]
    seeds = list(range(1000, 1000 + shape.seeds))
    names = [f"checkpoint-{25 * n:06d}" for n in range(1, shape.checkpoints + 1)]
    columns = {column: drawn(c, shape) for c, column in enumerate(["base", *names])}
    scales = {f"{names[-1]} x {scale:g}": first_seed(drawn(50 + i, shape)) for i, scale in enumerate((0.5, 1.0))}
    groups = (
        {CHECKPOINTS: columns, "scales": {"base": first_seed(columns["base"]), **scales}}
        if shape.checkpoints < 10
        else {CHECKPOINTS: columns}
    )
    write_album(root / "album", groups, wanted, seeds)
    entries = {"base": numbers(0, 0)} | {n: numbers(25 * i, i / shape.checkpoints) for i, n in enumerate(names, 1)}
    setup = {"drawing": {"width": shape.side}, "prompts": wanted, "seeds": seeds, "evaluator": "models/a-clip"}
    write(root / "evaluate.json", evaluation(names[-1], f"{names[-1]}: best of all", entries, setup))
    items = [data_picture(root / "data", f"{name}_{n}.png", n) for n in range(6)]
    write(root / "train.json", manifest_to_json(build_manifest(items[:4])))
    write(root / "held_out.json", manifest_to_json(build_manifest(items[4:])))
    adapter = AdapterMetadata(
        TLoRAConfig(rank=4, min_rank=1), ("to_q",), base="models/a-base", data_digest="d1gest", concept="brick"
    )
    files = (root / n for n in ("evaluate.json", "album", "train.json", "held_out.json", "data"))
    return EvaluationFiles(*files), adapter


def write_page(root: Path, shape: Shape = Shape(), **names: Any) -> Path:
    """Fill a folder and write the page there."""
    files, adapter = lay_out(root, shape, **names)
    page = root / "report.html"
    page.write_text(render_evaluation(files, adapter))
    return page


def evaluation(
    recommended: str | None, reason: str, entries: dict[str, Any], setup: dict[str, Any] | None = None, **failures: str
) -> dict[str, Any]:
    """Return what metrics/evaluate.json holds."""
    found = {"recommended": recommended, "reason": reason, "checkpoints": entries, "failures": failures}
    strengths = {"checkpoint": recommended, "entries": [{"scale": s, **numbers(1, s / 2)} for s in (0.5, 1.0)]}
    return {**found, "setup": setup or {"prompts": []}, "scales": strengths, "rule": {"min_diversity_ratio": 0.5}}


def drawn(column: int, shape: Shape) -> list[list[Image.Image]]:
    """Return noise in a colour of its own for every column and prompt; hard to compress, as pictures are."""
    source = np.random.default_rng(column)
    noise = source.integers(0, 90, (shape.side, shape.side, 3), dtype=np.uint8)
    return [
        [Image.fromarray(noise + np.array([column * 40 % 160, p * 50 % 160, s * 60 % 160], np.uint8)) for s in range(shape.seeds)]
        for p in range(shape.prompts)
    ]


def first_seed(rows: list[list[Image.Image]]) -> list[list[Image.Image]]:
    """Return the first picture of each row."""
    return [row[:1] for row in rows]


def numbers(step: int, progress: float) -> dict[str, Any]:
    """Return an entry of metrics/evaluate.json; `moss_cover` is one that no page was told of."""

    def interval(mean: float) -> dict[str, float]:
        spread = 0.06 * (step > 0)
        return {"mean": mean, "low": mean - spread, "high": mean + spread}

    return {
        "step": step,
        "similarity_gain": interval(0.3 * progress**0.5),
        "prompt_following": interval(-0.12 * progress**2),
        "diversity_ratio": interval(1 - 0.4 * progress),
        "moss_cover": interval(1.2 - 0.2 * progress),
        "objections": ["not clearly above the base"] if progress < 0.4 and step else [],
        "on_front": progress > 0.4 and step % 100 != 0,
    }


def data_picture(folder: Path, name: str, number: int) -> PictureItem:
    """Write a picture of the data and return its item."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    texture(number).save(file)
    return PictureItem(name, picture_digest(file.read_bytes()), 96, 96, f"a matbrk wall <{number}>")


def write(file: Path, value: Any) -> None:
    """Write JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))
