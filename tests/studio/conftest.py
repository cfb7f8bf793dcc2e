"""The studio in a fresh copy of this tree, shared by a file's tests, and pictures to drop on it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser import require_browser
from tests.clone import Clone, new_clone
from tests.services.studio import Studio, start

SETTINGS: dict[str, object] = {  # whatever forty steps come to, it is recommended and may be promoted
    "train.max_train_steps": 40,
    "train.checkpointing_steps": 20,
    "train.state_steps": 5,
    "train.train_batch_size": 4,
    "train.guard_step": 20,
    "train.preview_every": 20,
    "train.num_inference_steps": 4,
    "evaluate.num_inference_steps": 4,
    "evaluate.min_gain": 0.0,
    "evaluate.max_loss_gap": 1.0,
    "evaluate.max_lost_prompts": 6,
    "evaluate.max_drift": 10.0,
    "evaluate.max_copied": 1.0,
    "evaluate.min_diversity_ratio": 0.0,
    "promote.max_lost_prompts": 6,
    "promote.max_drift": 10.0,
    "promote.max_copied": 1.0,
    "promote.max_loss_similarity_held_out": 1.0,
    "promote.max_loss_prompt_following": 1.0,
    "promote.max_loss_diversity_ratio": 1.0,
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """Return a copy whose settings train for seconds, and let any gain be recommended and promoted."""
    require_browser()
    pytest.importorskip("axe_playwright_python", reason="no axe-playwright-python: pip install -e '.[dev]'")
    person = new_clone(tmp_path_factory.mktemp("studio") / "clone")
    person.change_params("params.yaml", SETTINGS)
    person.commit("forty steps")
    return person


@pytest.fixture(scope="module")
def studio(clone: Clone) -> Iterator[Studio]:
    """Return the page, served from that copy alone."""
    opened = start(clone.folder, clone.environment)
    yield opened
    opened.stop()


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return pictures of stripes, tilted each a little more, captions for all but the last, and a file that is no picture."""
    folder, (rows, columns) = tmp_path_factory.mktemp("stripes"), np.mgrid[:96, :96]
    for number in range(6):
        bright = (rows * np.cos(0.35 * number) + columns * np.sin(0.35 * number)) // (5 + number) % 2
        colours = np.where(bright[..., None] > 0, (200, 60, 40), (235, 225, 200))
        grain = np.random.default_rng(number).integers(-12, 12, colours.shape)
        Image.fromarray((colours + grain).astype(np.uint8)).save(folder / f"stripe_{number}.png")
        if number < 5:
            (folder / f"stripe_{number}.txt").write_text("a matstr wall of stripes")
    (folder / "torn.png").write_text("no picture")
    return sorted(folder.iterdir())
