"""Pictures in the middle of training, which are not lost, and the guard against adapters that do nothing or explode."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient
from PIL import Image

from tasks.train.identity import TrainSettings
from tests.tasks.stage_process import bytes_of, start
from tests.tasks.trainable import ROOT, make_trainable
from tlora.errors import TrainingError
from tlora.runtime.settings import parse_settings
from tlora.training.weight_change import check_effect

LIMIT = (1e-5, 1.0)


def guarded_step(**changes: Any) -> int:
    section = yaml.safe_load((ROOT / "params/pocket.yaml").read_text())["train"]
    return parse_settings(TrainSettings, section | changes, "params.yaml: train").guarded_step


def test_the_guard_waits_for_the_end_of_the_warm_up_and_judges_a_short_run_at_its_end() -> None:
    assert guarded_step(guard_step=50, lr_warmup_steps=10, max_train_steps=200) == 50
    assert guarded_step(guard_step=50, lr_warmup_steps=50, max_train_steps=200) == 51
    assert guarded_step(guard_step=50, lr_warmup_steps=10, max_train_steps=30, checkpointing_steps=10) == 30
    assert guarded_step(guard_step=50, lr_warmup_steps=100, max_train_steps=30, checkpointing_steps=10) == 30
    assert guarded_step(guard_step=0) == 0


def test_only_no_change_at_all_in_any_kind_of_layer_is_an_error() -> None:
    with pytest.raises(TrainingError) as raised:
        check_effect({"attn.to_k": 0.0, "attn.to_q": 0.0}, 50, LIMIT, "train.")
    assert str(raised.value) == (
        "step 50: no weight has changed at all: raise train.learning_rate, or adapt other layers (train.target_modules)"
    )
    assert check_effect({"attn.to_k": 0.0, "attn.to_q": 1e-4}, 50, LIMIT, "train.") == (
        "step 50: relative weight change attn.to_k 0.000%, attn.to_q 0.010%"
    )


def test_next_to_no_change_in_every_kind_of_layer_is_an_error() -> None:
    with pytest.raises(TrainingError) as raised:
        check_effect({"attn.to_k": 2e-9, "attn.to_q": 3e-9}, 50, LIMIT, "train.")
    assert str(raised.value) == (
        "step 50: no update is more than 3e-09 of its weight (attn.to_q), less than train.min_relative_change (1e-05), so nothing"
        " is being learnt: raise train.learning_rate"
    )


def test_layers_that_cannot_be_measured_are_no_error() -> None:
    assert check_effect({}, 50, LIMIT, "train.") == "step 50: relative weight change unknown, all layers are quantised"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_change_that_is_not_finite_is_an_error(value: float) -> None:
    with pytest.raises(TrainingError) as raised:
        check_effect({"attn.to_k": 0.1, "attn.to_q": value}, 50, LIMIT, "train.")
    assert str(raised.value) == f"step 50: the update of attn.to_q is {value}: lower train.learning_rate"


def test_a_change_up_to_the_limit_is_believed_and_one_beyond_it_is_an_error() -> None:
    assert check_effect({"attn.to_q": 1.0}, 50, LIMIT, "train.") == "step 50: relative weight change attn.to_q 100.000%"
    with pytest.raises(TrainingError) as raised:
        check_effect({"attn.to_q": 1.01}, 50, LIMIT, "train.")
    assert str(raised.value) == (
        "step 50: the update of attn.to_q is 1.01 times its weight, more than train.max_relative_change (1):"
        " lower train.learning_rate"
    )


def train(folder: Path) -> tuple[int | None, str]:
    """Run the stage; return its exit code and what it said."""
    log = folder / "train.log"
    log.unlink(missing_ok=True)
    process = start(folder)
    process.join()
    return process.exitcode, log.read_text()


def shown_in_mlflow(folder: Path) -> list[str]:
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'tlora'")
    (run,) = client.search_runs([experiment.experiment_id])
    files = [Path(file.path).name for file in client.list_artifacts(run.info.run_id, "images")]
    return sorted("+".join(name.split("+")[:3]) for name in files if name.endswith(".png"))


@pytest.mark.slow
def test_previews_go_to_mlflow_and_outlive_a_kill_and_outputs_that_are_cleared(tmp_path: Path) -> None:
    folder = make_trainable(
        tmp_path, max_train_steps=10, preview_every=4, num_inference_steps=2, keep_states=10, guard_step=1, lr_warmup_steps=5
    )
    code, said = train(folder)
    assert code == 0, said
    assert "train: preview of step 8: reports/train/previews/step-000008.png\n" in said
    (judged,) = (line for line in said.splitlines() if "a picture differs from the base's by 0." in line)
    assert judged.startswith("train: step 6: relative weight change attn.to_k ")
    previews = folder / "reports/train/previews"
    drawn = bytes_of(previews)
    assert sorted(drawn) == ["step-000004.png", "step-000008.png"]
    four, eight = (np.asarray(Image.open(previews / name)) for name in sorted(drawn))
    assert four.shape == eight.shape == (12, 12, 3)
    assert (four != eight).any()
    assert shown_in_mlflow(folder) == ["preview+step+4", "preview+step+8"]

    clear_outputs(folder)
    code, said = train(folder)
    assert (code, bytes_of(previews)) == (0, drawn), said
    assert "going on from step 10" in said

    clear_outputs(folder)
    (run_folder,) = (folder / ".state/train").iterdir()
    shutil.rmtree(run_folder / "previews")
    for state in sorted(run_folder.glob("state-*"))[4:]:
        state.unlink()  # as if it had been killed between the state of step 4 and its picture
    code, said = train(folder)
    assert "going on from step 4 " in said
    assert (code, bytes_of(previews)) == (0, drawn), said
    assert shown_in_mlflow(folder) == ["preview+step+4", "preview+step+8"]


def clear_outputs(folder: Path) -> None:
    """Do what DVC does before it runs a stage."""
    shutil.rmtree(folder / "adapters")
    shutil.rmtree(folder / "reports")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "step", "reason"),
    [
        ({"learning_rate": 1e-60}, 10, "no weight has changed at all: raise train.learning_rate, or adapt other layers"),
        (
            {"max_relative_change": 1e-9, "min_relative_change": 0, "guard_step": 7, "lr_warmup_steps": 2},
            7,
            "times its weight, more than train.max_relative_change (1e-09)",
        ),
    ],
    ids=["nothing changed", "far too much changed"],
)
def test_what_the_guard_refuses_is_one_line_and_is_refused_again(
    tmp_path: Path, changes: dict[str, Any], step: int, reason: str
) -> None:
    folder = make_trainable(tmp_path, **{"max_train_steps": 10, "guard_step": 50, "num_inference_steps": 2} | changes)
    for _ in range(2):
        code, said = train(folder)
        last = said.splitlines()[-1]
        assert code == 2, said
        assert last.startswith(f"train: error: step {step}: ")
        assert reason in last
        assert "Traceback" not in said
    assert sorted(path.name for path in (folder / "adapters").iterdir()) == ["checkpoint-000005"]
