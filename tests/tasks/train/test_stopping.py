"""Training that ends early: what counts as a gain, and that a run that is killed ends at the same step in the same bytes."""

import json
import shutil
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tasks.train.stopping import DRIFT, GAIN, StopSettings, reason_to_stop
from tests.tasks.stage_process import bytes_of, kill, start
from tests.tasks.trainable import make_stoppable

SETTINGS = StopSettings(stop_patience=2, stop_min_gain=0.01, stop_max_drift=0.5, stop_evaluator="clip")


def stops_at(*measured: tuple[float, float | None], settings: StopSettings = SETTINGS) -> int:
    """Return with which of these checkpoints training ends; 0 if with none."""
    log = [{"step": i, GAIN: gain} | ({} if drift is None else {DRIFT: drift}) for i, (gain, drift) in enumerate(measured, 1)]
    return next((i for i in range(1, len(log) + 1) if reason_to_stop(log[:i], settings)), 0)


def test_it_ends_once_no_checkpoint_of_as_many_as_are_waited_for_has_gained() -> None:
    assert stops_at((0.1, None), (0.2, None), (0.3, None), (0.4, None)) == 0
    assert stops_at((0.1, None), (0.105, None), (0.2, None), (0.205, None), (0.209, None), (0.3, None)) == 5
    assert stops_at((-0.1, None), (-0.2, None)) == 2  # learnt nothing at all


def test_small_gains_add_up() -> None:
    assert stops_at(*((0.006 * i, None) for i in range(1, 9))) == 0


def test_what_changes_other_pictures_too_much_has_gained_nothing() -> None:
    assert stops_at((0.1, 0.1), (0.2, 0.51), (0.3, 0.6), (0.4, 0.1)) == 3
    assert stops_at((0.1, 0.1), (0.2, 0.51), (0.3, 0.5), (0.4, 0.5)) == 0


def test_without_patience_it_never_ends_early() -> None:
    assert stops_at((0.1, None), (0.0, None), (0.0, None), settings=StopSettings()) == 0
    assert reason_to_stop([], SETTINGS) == ""


def test_the_reason_is_one_line_with_the_numbers() -> None:
    log = [{"step": step, GAIN: gain, DRIFT: 0.25} for step, gain in ((25, 0.2), (50, 0.201), (75, 0.199))]
    assert reason_to_stop([{"step": 1, "loss": 2.0}, *log], SETTINGS) == (
        "good enough at step 75: no gain of 0.01 in 2 checkpoints, similarity gain +0.199 after +0.200 at step 25,"
        " other pictures moved by 0.25 of at most 0.5"
    )


@pytest.mark.slow
def test_killed_and_resumed_it_ends_at_the_same_step_in_the_same_bytes(tmp_path: Path) -> None:
    left_alone, killed = make_stoppable(tmp_path / "left_alone"), make_stoppable(tmp_path / "killed")
    process = start(left_alone)
    process.join()
    said = (left_alone / "train.log").read_text()
    assert process.exitcode == 0, said
    summary = json.loads((left_alone / "reports/train/summary.json").read_text())
    lines = [json.loads(line) for line in (left_alone / "reports/train/log.jsonl").read_text().splitlines()]
    measured = [line["step"] for line in lines if GAIN in line]
    assert 4 < summary["steps"] < 40
    assert measured == list(range(2, summary["steps"] + 1, 2))
    assert said.count(f"train: {summary['ended_early']}\n") == 1
    assert sorted(bytes_of(left_alone / "adapters")) == sorted(
        f"{name}/tlora_weights.safetensors" for name in ("final", *(f"checkpoint-{step:06d}" for step in measured))
    )
    client = MlflowClient(f"sqlite:///{left_alone}/mlflow.db")
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert [point.step for point in client.get_metric_history(run.info.run_id, f"train/{GAIN}")] == measured

    kill_at(killed, measured_lines=3)
    again = start(killed)
    again.join()
    assert "going on from step" in (killed / "train.log").read_text()
    assert bytes_of(killed / "adapters") == bytes_of(left_alone / "adapters")
    shutil.rmtree(killed / "adapters")  # as DVC does, or a kill before all was published: nothing is trained again
    once_more = start(killed)
    once_more.join()
    assert f"going on from step {summary['steps']} " in (killed / "train.log").read_text()
    assert bytes_of(killed / "adapters") == bytes_of(left_alone / "adapters")
    assert json.loads((killed / "reports/train/summary.json").read_text()) == summary


def kill_at(folder: Path, measured_lines: int) -> None:
    """Run until so many checkpoints were measured, then kill it: the last one is then not saved yet, or just."""
    process = start(folder)
    while (
        process.is_alive()
        and sum(log.read_text().count(GAIN) for log in folder.glob(".state/train/*/log.jsonl")) < measured_lines
    ):
        time.sleep(0.001)
    assert process.is_alive()
    assert process.pid
    kill(process.pid)
    process.join()
