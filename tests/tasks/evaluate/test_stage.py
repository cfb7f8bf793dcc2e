"""Which checkpoints are evaluated, what their scores say, and what is left when something cannot be measured."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.evaluate.checkpoints import find_checkpoints
from tasks.evaluate.outputs import summary_table
from tasks.evaluate.scoring import ReferenceEmbeddings, ReferenceTexture, score_embeddings, score_textures
from tasks.evaluate.summary import NOT_MEASURED, Losses, Measured, summarise
from tests.tiny_flux import tiny_transformer
from tlora.checkpoint import save_tlora_weights
from tlora.errors import CheckpointError
from tlora.evaluation.recommendation import SelectionSettings
from tlora.evaluation.texture import Lattice
from tlora.flux.spec import ModelSpec
from tlora.inject import inject_tlora_into_transformer
from tlora.metadata.adapter import BASE, WEIGHTS_FILE, AdapterMetadata
from tlora.metadata.config import TLoRAConfig

MODEL = ModelSpec("a-base", dtype="float32")
PROMPTS = ("a wall", "a ball")
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
    found, failures = find_checkpoints(adapters, MODEL)
    assert list(found) == ["checkpoint-000002", "checkpoint-000010"]
    assert failures == {}


def test_no_checkpoints_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoints to evaluate: run train first"):
        find_checkpoints(tmp_path, MODEL)


def test_where_all_checkpoints_are_of_another_base_nothing_is_measured(adapters: Path) -> None:
    with pytest.raises(CheckpointError, match="checkpoint-000002: trained on a-base, not on another"):
        find_checkpoints(adapters, ModelSpec("another"))


def test_a_pickle_named_safetensors_is_passed_over_by_name(adapters: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (adapters / "checkpoint-000010" / WEIGHTS_FILE).write_bytes(b"\x80\x04\x95pickle")
    found, failures = find_checkpoints(adapters, MODEL)
    assert list(found) == ["checkpoint-000002", "final"]
    assert "not a safetensors file" in failures["checkpoint-000010"]
    assert "going on without checkpoint-000010" in capsys.readouterr().err


def test_pictures_are_scored_prompt_by_prompt() -> None:
    x, y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    scores = score_embeddings(
        torch.stack([x, x, y, x]), ReferenceEmbeddings(train=x[None], held_out=y[None]), torch.stack([x, y])
    )
    assert scores["similarity_train"].tolist() == [[1, 1], [0, 1]]
    assert scores["similarity_held_out"].tolist() == [[0, 0], [1, 0]]
    assert scores["prompt_similarity"].tolist() == [[1, 1], [1, 0]]
    assert scores["diversity"].tolist() == [[0], [1]]
    assert scores["training_distance"].tolist() == [[0, 0], [1, 0]]
    assert scores["copied"].tolist() == [[1, 1], [0, 1]]
    assert scores["prompt_contrast"].tolist() == [[1, 1], [1, -1]]


def test_no_prompt_of_the_bare_material_is_no_texture() -> None:
    assert score_textures([], ReferenceTexture(np.ones((1, 1)), Lattice(0.5, 0.0), 1.0)) == {}


def measured(step: int, similarity: float, prompt: float, diversity: float, loss: float = 1.0) -> Measured:
    table = np.full((2, 3), similarity)
    scores = {"similarity_held_out": table, "prompt_similarity": np.full((2, 3), prompt), "copied": np.zeros((2, 3))}
    return Measured(step, {**scores, "diversity": np.full((2, 3), diversity)}, Losses(np.full((4, 2), loss), np.ones((3, 2))))


def test_gain_and_prompt_following_are_differences_to_the_base_and_diversity_a_share_of_its() -> None:
    checkpoint = measured(10, 0.6, 0.4, 0.3, loss=0.9)
    result = summarise({BASE: measured(0, 0.2, 0.5, 0.4), "checkpoint-000010": checkpoint}, PROMPTS, SelectionSettings())
    entry = result["checkpoints"]["checkpoint-000010"]
    assert entry["similarity_gain"]["mean"] == pytest.approx(0.4)
    assert entry["prompt_following"]["mean"] == pytest.approx(-0.1)
    assert entry["diversity_ratio"]["mean"] == pytest.approx(0.75)
    assert entry["loss_reduction_train"]["mean"] == pytest.approx(0.1)
    assert entry["loss_gap"]["low"] == pytest.approx(0.1)
    assert (entry["on_front"], entry["objections"]) == (True, [])
    assert (result["recommended"], result["front"]) == ("checkpoint-000010", ["checkpoint-000010"])


def with_contrast(own: Measured, *rows: list[float], moved: float | None = None) -> Measured:
    drift = None if moved is None else np.full((1, 2), moved)
    return dataclasses.replace(own, scores={**own.scores, "prompt_contrast": np.array(rows)}, moved=drift)


def test_one_that_draws_the_same_wall_for_every_prompt_is_out_and_the_lost_prompt_is_named() -> None:
    """Its mean similarity to the prompts is the base's: that alone would have let it pass."""
    base = with_contrast(measured(0, 0.2, 0.5, 0.4), [0.1, 0.1, 0.1], [0.2, 0.2, 0.2], moved=0.0)
    wall = with_contrast(measured(20, 0.7, 0.5, 0.3), [0.2, 0.2, 0.2], [-0.1, 0.05, -0.1])
    sound = with_contrast(measured(10, 0.6, 0.5, 0.3), [0.1, 0.1, 0.1], [0.1, -0.1, 0.1], moved=0.25)
    result = summarise({BASE: base, "sound": sound, "wall": wall}, PROMPTS, SelectionSettings())
    entry = result["checkpoints"]["wall"]
    assert (entry["lost_prompts"], entry["lost"]) == (1, ["a ball"])
    assert entry["worst_prompt"]["prompt"] == "a ball"
    assert entry["worst_prompt"]["mean"] == pytest.approx(-0.25)
    assert entry["objections"] == ["lost: drawn as another prompt asks is 'a ball'; 0 may be"]
    assert result["recommended"] == "sound"
    assert "prompt following by contrast -0.083 against the base (worst: 'a ball', -0.167)" in result["reason"]
    assert result["checkpoints"]["sound"]["drift"]["mean"] == 0.25
    assert summarise({BASE: base, "wall": wall}, PROMPTS, SelectionSettings(max_lost_prompts=1))["recommended"] == "wall"
    blurred = with_contrast(
        measured(30, 0.7, 0.9, 0.3), [0.0, 0.0, 0.0], [0.05, 0.05, 0.05]
    )  # more similar to prompts that it blurs
    weighed = summarise({BASE: base, "sound": sound, "blurred": blurred}, PROMPTS, SelectionSettings(prompt_weight=10))
    assert (weighed["recommended"], weighed["front"]) == ("sound", ["sound", "blurred"])
    changed = dataclasses.replace(sound, moved=np.full((1, 2), 0.75))
    told = summarise({BASE: base, "sound": changed}, PROMPTS, SelectionSettings())
    assert (told["recommended"], told["advice"]) == (
        None,
        "it changes other things too: train for fewer steps or at a lower rate, or turn on preservation",
    )
    assert "drifted: prompts without the trigger word moved by 0.75" in told["reason"]


def test_without_an_evaluator_losses_are_told_and_nothing_is_recommended() -> None:
    blind = {BASE: Measured(0, {}, measured(0, 0, 0, 0).losses), "final": Measured(10, {}, measured(10, 0, 0, 0, 0.5).losses)}
    result = summarise(blind, PROMPTS, SelectionSettings())
    assert result["recommended"] is None
    assert result["checkpoints"]["final"]["objections"] == [NOT_MEASURED]
    assert result["checkpoints"]["final"]["loss_gap"]["mean"] == pytest.approx(0.5)


@pytest.mark.parametrize(("early", "late", "agrees"), [(0.3, 0.5, True), (0.5, 0.3, False)])
def test_a_second_opinion_is_told_beside_the_choice_and_changes_nothing(early: float, late: float, agrees: bool) -> None:
    def also(own: Measured, seen: float) -> Measured:
        return dataclasses.replace(own, scores={**own.scores, "efficientnet_held_out": np.full((2, 3), seen)})

    plain = {BASE: measured(0, 0.2, 0.5, 0.4), "early": measured(10, 0.4, 0.5, 0.4), "late": measured(20, 0.6, 0.5, 0.4)}
    seen = {name: also(own, {BASE: 0.1, "early": early, "late": late}[name]) for name, own in plain.items()}
    without, result = (summarise(each, PROMPTS, SelectionSettings()) for each in (plain, seen))
    assert "second_opinion" not in without
    assert (result["recommended"], result["reason"]) == (without["recommended"], without["reason"])
    assert result["second_opinion"]["agrees"] is agrees
    assert ("by it early scores more than late, by +0.200" in result["second_opinion"]["said"]) is not agrees
    assert result["checkpoints"]["late"]["efficientnet_gain"]["mean"] == pytest.approx(late - 0.1)
    table = summary_table(result)
    assert table["second_opinion"] == ("agrees" if agrees else "disagrees")
    assert table["efficientnet_gain"]["mean"] == pytest.approx(late - 0.1)
    assert not {"second_opinion", "efficientnet_gain"} & summary_table(without).keys()
