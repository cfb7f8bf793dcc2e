"""The race of the whole stage on a tiny FLUX: what it leaves out, and that no kill and no other process changes its files."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tasks.evaluate.stage import evaluate
from tasks.running.cli import run_stage
from tests.tasks.evaluable import make_evaluable, save_checkpoint
from tests.tasks.evaluate.test_whole_stage import OPTIONS
from tests.tasks.stage_process import bytes_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
PROMPTS = ["a matbrk wall", "a ball made of matbrk", "a cube made of matbrk", "a matbrk floor"]
OUTPUTS = ("grids", "pictures", "recommended", "report", "metrics")
LENIENT = {
    "min_gain": 0.0,
    "min_diversity_ratio": 0.0,
    "max_loss_gap": 1.0,
    "max_copied": 1.0,
    "max_lost_prompts": 4,
    "max_drift": 9.0,
}
WHOLE = len(PROMPTS) * 3  # pictures of a checkpoint
OTHERS = 2  # of a checkpoint without the trigger word: one prompt at two seeds
LAUNCH = [
    *("-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--module"),
]


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of which nothing is evaluated yet, with three checkpoints, the last clearly ahead."""
    folder, before = tmp_path_factory.mktemp("ready"), Path.cwd()
    os.chdir(folder)
    try:
        make_evaluable(folder, PROMPTS)
        for step in (2, 4, 6):
            save_checkpoint(step, size=0.3)
        change(folder, seeds=3, batch=3, race_confidence=0.1, **LENIENT)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(scope="module")
def raced(ready: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same folder, evaluated by a race."""
    folder = copy(ready, tmp_path_factory.mktemp("raced"))
    run_here(folder)
    return folder


def change(folder: Path, **settings: Any) -> None:
    """Change settings of section evaluate."""
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["evaluate"] |= settings
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def copy(ready: Path, folder: Path) -> Path:
    shutil.copytree(ready, folder, dirs_exist_ok=True)
    return folder


def run_here(folder: Path) -> None:
    """Run the stage to its good end in this process, which has its imports done."""
    with contextlib.chdir(folder), pytest.raises(SystemExit) as end:
        run_stage(evaluate, OPTIONS)
    assert end.value.code == 0


def start(folder: Path, *launch: str) -> "subprocess.Popen[str]":
    """Start the stage, alone or as told, in a process group of its own; the lock of the device is the folder's own too."""
    threads = str(torch.get_num_threads())  # as here: another number may round otherwise
    return subprocess.Popen(
        [sys.executable, *(launch or ("-m",)), "tasks.evaluate", *OPTIONS],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "OMP_NUM_THREADS": threads},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def told(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report/evaluate.json").read_text())


def outputs(folder: Path) -> dict[str, str]:
    """Return the hash of every file that the stage wrote."""
    return {file: digest for file, digest in bytes_of(folder).items() if file.startswith(OUTPUTS)}


def test_a_race_draws_fewer_pictures_and_those_bit_by_bit_as_a_full_evaluation(ready: Path, raced: Path, tmp_path: Path) -> None:
    full = copy(ready, tmp_path / "full")
    change(full, race=False)
    run_here(full)
    one, other = told(raced), told(full)
    counts = {name: own["pictures"] for name, own in one["race"]["checkpoints"].items()}
    assert counts == {"base": WHOLE, "checkpoint-000002": 2, "checkpoint-000004": 2, "checkpoint-000006": WHOLE}
    assert (one["race"]["pictures"], one["race"]["of"]) == (2 * (WHOLE + OTHERS) + 4 + 4, 4 * (WHOLE + OTHERS) + 4)
    assert other["race"]["pictures"] == other["race"]["of"] == 4 * (WHOLE + OTHERS) + 4
    assert one["recommended"] == other["recommended"] == "checkpoint-000006"
    for name in ("base", "checkpoint-000006"):
        metrics = {**other["checkpoints"][name], "on_front": True}
        assert {**one["checkpoints"][name], "on_front": True} == metrics
    assert one["scales"] == other["scales"]
    pictures = {file: digest for file, digest in outputs(raced).items() if file.endswith(".webp")}
    assert len(pictures) == one["race"]["pictures"] - 2 * OTHERS + len(
        PROMPTS
    )  # others are in a grid, and the base stands among the strengths once more
    assert pictures.items() <= outputs(full).items()
    page = (raced / "report/report.html").read_text()
    assert page.count('class="blank"') == 2 * (WHOLE - 2)
    assert "behind checkpoint-000006 after 2 of 12 pictures" in page
    assert not any((raced / ".state/evaluate").iterdir())


def test_one_that_is_killed_goes_on_with_the_pictures_it_has_and_ends_in_the_same_files(
    ready: Path, raced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy(ready, tmp_path / "killed")
    process = start(folder)
    state = folder / ".state/evaluate"
    while process.poll() is None and len([*state.rglob("*.png")]) < 3:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    there = {file: file.stat().st_mtime_ns for file in state.rglob("*.png")}
    assert len(there) >= 3
    assert not (folder / "report/evaluate.json").exists()
    run_here(folder)
    said = capsys.readouterr().out
    assert f"going on with {sum(int(file.stem.split('-')[0]) for file in there)} pictures that are drawn already" in said
    assert outputs(folder) == outputs(raced)


def test_two_processes_share_the_pictures_and_write_the_same_files(ready: Path, raced: Path, tmp_path: Path) -> None:
    folder = copy(ready, tmp_path / "two")
    process = start(folder, *LAUNCH)
    said, errors = process.communicate()
    assert process.returncode == 0, said + errors
    assert outputs(folder) == outputs(raced)
    assert said.count("pictures (of 60 that a full evaluation draws)") == 1
