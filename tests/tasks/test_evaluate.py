"""Which checkpoints are evaluated, and what their scores say."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.evaluate import find_checkpoints
from tasks.scoring import BASE, References, Scores, score_pictures, summarise
from tests.tiny_flux import tiny_transformer
from tlora.adapter import TLoRAConfig
from tlora.base_model import ModelSpec
from tlora.checkpoint import WEIGHTS_FILE, AdapterMetadata, save_tlora_weights
from tlora.errors import CheckpointError
from tlora.inject import inject_tlora_into_transformer
from tlora.selection import SelectionSettings

MODEL = ModelSpec("a-base", dtype="float32")
METADATA = AdapterMetadata(TLoRAConfig(rank=4, min_rank=1), ("to_q",), base="a-base")


@pytest.fixture
def adapters(tmp_path: Path) -> Path:
    """Checkpoints of steps 2 and 10, and a final of step 10."""
    transformer = tiny_transformer()
    inject_tlora_into_transformer(transformer, METADATA.target_modules, METADATA.config)
    for name, step in (("checkpoint-000002", 2), ("checkpoint-000010", 10), ("final", 10)):
        save_tlora_weights(transformer, tmp_path / name / WEIGHTS_FILE, dataclasses.replace(METADATA, step=step))
    return tmp_path


def test_checkpoints_come_in_the_order_of_their_steps_and_the_final_twin_once(adapters: Path) -> None:
    assert list(find_checkpoints(adapters, MODEL)) == ["checkpoint-000002", "checkpoint-000010"]


def test_no_checkpoints_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoints to evaluate: run train first"):
        find_checkpoints(tmp_path, MODEL)


def test_a_checkpoint_of_another_base_is_refused_by_name(adapters: Path) -> None:
    with pytest.raises(CheckpointError, match="checkpoint-000002: trained on a-base, not on another"):
        find_checkpoints(adapters, ModelSpec("another"))


def test_a_pickle_named_safetensors_is_refused(adapters: Path) -> None:
    (adapters / "checkpoint-000002" / WEIGHTS_FILE).write_bytes(b"\x80\x04\x95pickle")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        find_checkpoints(adapters, MODEL)


def test_pictures_are_scored_prompt_by_prompt() -> None:
    x, y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    references = References(train=x[None], held_out=y[None], texts=torch.stack([x, y]))
    scores = score_pictures(torch.stack([x, x, y, x]), references, prompts=2)
    assert scores.similarity_train.tolist() == [[1, 1], [0, 1]]
    assert scores.similarity_held_out.tolist() == [[0, 0], [1, 0]]
    assert scores.prompt.tolist() == [[1, 1], [1, 0]]
    assert scores.diversity.tolist() == [0, 1]


def test_gain_and_prompt_following_are_differences_to_the_base() -> None:
    def scores(similarity: float, prompt: float, diversity: float) -> Scores:
        table = np.full((2, 3), similarity)
        return Scores(table, table, np.full((2, 3), prompt), table, np.full(2, diversity))

    result = summarise(
        {BASE: scores(0.2, 0.5, 0.4), "checkpoint-000010": scores(0.6, 0.4, 0.3)},
        {"checkpoint-000010": 10},
        SelectionSettings(),
    )
    entry = result["checkpoints"]["checkpoint-000010"]
    assert entry["similarity_gain"]["mean"] == pytest.approx(0.4)
    assert entry["prompt_following"]["mean"] == pytest.approx(-0.1)
    assert entry["diversity_ratio"] == pytest.approx(0.75)
    assert result["recommended"] == "checkpoint-000010"
