"""The stage itself in two processes, each with samples and masks of its own, prior pictures among them; both end early."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.tasks.stage_process import start
from tests.tasks.trainable import RUN, add_prior, make_stoppable
from tlora.metadata.adapter import WEIGHTS_FILE

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_processes_train_what_one_trains_with_the_doubled_batch(tmp_path: Path) -> None:
    ending = {"stop_min_gain": 1.0, "learning_rate": 1e-2, "state_steps": 2, "prior_share": 0.3}  # step 4: twice without a gain
    one = make_stoppable(tmp_path / "one", train_batch_size=4, **ending)
    two = make_stoppable(tmp_path / "two", train_batch_size=2, **ending)
    for folder in (one, two):
        add_prior(folder)
    process = start(one)
    process.join()
    assert process.exitcode == 0
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2"]
    command = [
        *launch,
        "--main_process_port",
        "0",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--module",
        "tasks.train",
        *RUN,
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=two, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    alone, together = (load_file(folder / "adapters/final" / WEIGHTS_FILE) for folder in (one, two))
    assert [sorted(path.name for path in (folder / "adapters").iterdir()) for folder in (one, two)] == [
        ["checkpoint-000002", "checkpoint-000004", "final"]
    ] * 2
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-4, atol=1e-5)
