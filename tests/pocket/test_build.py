"""The whole build in miniature: everything loads as what it claims to be, and a second build gives the same bits."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from transformers import CLIPModel

from pocket.judge import Judge

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def build(folder: Path) -> dict[str, str]:
    """Run `python -m pocket --size miniature`; return the hash of every file it wrote."""
    places = {name: folder / name for name in ("work", "models", "docs")}
    options = [word for name, place in places.items() for word in (f"--{name}", str(place))]
    subprocess.run(
        [sys.executable, "-m", "pocket", "--size", "miniature", *options],
        check=True,
        cwd=ROOT,
    )
    files = [p for name in ("models", "docs") for p in sorted(places[name].rglob("*")) if p.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_the_miniature_is_whole_and_a_second_one_has_the_same_bits(tmp_path: Path) -> None:
    first = build(tmp_path / "first")
    pipeline = FluxPipeline.from_pretrained(tmp_path / "first/models/pocket-flux", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.transformer.config.guidance_embeds
    assert pipeline.transformer.config.in_channels == 4 * pipeline.vae.config.latent_channels
    picture = pipeline("a red brick wall", height=64, width=64, num_inference_steps=2, max_sequence_length=77).images[0]
    assert picture.size == (64, 64)
    assert CLIPModel.from_pretrained(tmp_path / "first/models/pocket-clip").dtype == torch.float16
    assert isinstance(Judge.from_pretrained(tmp_path / "first/models/pocket-judge"), Judge)
    assert "What it cannot do" in (tmp_path / "first/docs/pocket.md").read_text()
    assert build(tmp_path / "second") == first
