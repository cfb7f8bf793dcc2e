"""The command line on the shipped pocket FLUX, with a configuration that points at it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tlora.commands.workplace import write_config
from tlora.cli import main
from tlora.evaluation.texture import seam_ratio

POCKET = Path(__file__).parents[3] / "models/pocket-flux"


@pytest.mark.slow
def test_it_trains_and_draws_and_tiles_have_no_seam(folder: Path) -> None:
    write_config(folder, POCKET, resolution=64, num_inference_steps=8, learning_rate=1e-3)
    main(["train", "--config", "config.yaml"])
    infer = ["infer", "--config", "config.yaml", "--lora_path", "out/final", "--num", "2", "--batch", "2"]
    for outdir, more in (("plain", []), ("tiles", ["--tileable"])):
        main([*infer, "--prompt", "a photo of a brick wall", "--outdir", outdir, *more])
    plain, tiles = (seams(folder / outdir) for outdir in ("plain", "tiles"))
    assert np.mean(tiles) < 0.75 * np.mean(plain), (plain, tiles)
    assert len(list((folder / "tiles").glob("*_tiled.png"))) == len(tiles) == 2


def seams(folder: Path) -> list[float]:
    found = []
    for file in sorted(folder.glob("*lora1.00.png")):
        with Image.open(file) as picture:
            found.append(seam_ratio(np.asarray(picture.convert("L"), np.float64) / 255))
    return found
