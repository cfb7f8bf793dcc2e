"""Training that runs out of memory says so in one line, with a way out."""

from pathlib import Path

import pytest

from tests.tasks.stage_process import start
from tests.tasks.trainable import make_trainable

pytestmark = pytest.mark.slow


def test_out_of_memory_is_one_line_with_the_peak_by_phase_and_the_smallest_change_that_fits(tmp_path: Path) -> None:
    folder = make_trainable(tmp_path, train_batch_size=8192)
    process = start(folder, memory=500_000_000)
    process.join()
    log = (folder / "train.log").read_text()
    assert process.exitcode == 2, log
    (line,) = (line for line in log.splitlines() if "error" in line)
    assert line.startswith("train: error: out of memory in forward on cpu (peak by phase: loading 0.")
    assert "forward 0." in line or "forward 1." in line
    assert line.split("): ")[1].startswith("set train.gradient_checkpointing: ")
    assert "which needs about 0." in line
    assert "Traceback" not in log
