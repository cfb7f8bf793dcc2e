"""A working folder with pictures, captions and concept.yaml, for tests of what is done with them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from pocket.tokenizers import build_clip_tokenizer, build_t5_tokenizer
from tasks.validate.checks import ValidateSettings
from tasks.validate.stage import validate
from tlora.flux.spec import ModelSpec
from tlora.pictures.tokens import TextSettings
from tlora.pictures.views import ViewSettings

CONCEPT = """\
name: brick
trigger: matbrk
held_out: [picture_0.png]
prompts: [a matbrk wall]
other_prompts: [a ball made of wood]
"""


def texture(seed: int, size: tuple[int, int] = (96, 96)) -> Image.Image:
    """Return a picture that resembles no other seed's."""
    coarse = np.random.default_rng(seed).integers(0, 255, (12, 12, 3), dtype=np.uint8)
    noise = np.random.default_rng(seed).integers(0, 50, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(np.asarray(Image.fromarray(coarse).resize(size)) // 2 + noise)


def lay_out(root: Path, count: int = 6) -> Path:
    """Fill `root` with pictures, captions, concept.yaml and the tokenizers of a base model; return the data folder."""
    data = root / "data" / "images"
    data.mkdir(parents=True)
    for n in range(count):
        texture(n).save(data / f"picture_{n}.png")
        (data / f"picture_{n}.txt").write_text(f"a matbrk wall, number {n}")
    (root / "concept.yaml").write_text(CONCEPT)
    return data


def tokenizers_only(folder: Path) -> ModelSpec:
    """Return a base model with nothing but its tokenizers, written into a folder."""
    build_clip_tokenizer().save_pretrained(folder / "tokenizer")
    build_t5_tokenizer().save_pretrained(folder / "tokenizer_2")
    return ModelSpec(str(folder))


def run(base: ModelSpec, max_sequence_length: int = 77, *, fix: bool = False) -> None:
    """Run the stage in the working folder."""
    validate(
        ValidateSettings(),
        base,
        ViewSettings(64),
        TextSettings(max_sequence_length),
        data=Path("data/images"),
        concept=Path("concept.yaml"),
        manifest=Path("artifacts/manifest"),
        report=Path("reports/validate"),
        fix=fix,
    )


def findings() -> set[tuple[str, str, str]]:
    """Return (severity, kind, file) of what the last run found."""
    found = json.loads(Path("reports/validate/findings.json").read_text())["findings"]
    return {(f["severity"], f["kind"], f["file"]) for f in found}


def reason(kind: str) -> str:
    """Return the reason of the first finding of a kind."""
    found = json.loads(Path("reports/validate/findings.json").read_text())["findings"]
    return next(f["reason"] for f in found if f["kind"] == kind)
