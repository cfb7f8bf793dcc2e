import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
FILES = [*FOLDER.glob("*.py"), *FOLDER.glob("*/__main__.py")]
BENCHMARKS = sorted((p.parent if p.stem == "__main__" else p).stem for p in FILES if "def main(" in p.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_runs_to_its_table(name: str):
    run = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--smoke"],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "|" in run.stdout


@pytest.mark.slow
def test_the_day_of_a_gpu_runs_to_its_tables_and_stops_in_time():
    command = [sys.executable, "-m", "benchmarks.gpu", "--smoke", "--minutes", "1.5"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
    assert run.returncode == 0, run.stdout + run.stderr
    parts = dict(part.split("\n", 1) for part in run.stdout.split("\n## ")[1:])
    assert len(parts) == 6
    assert all("| --- |" in told or "the time for it was over" in told for told in parts.values())
    assert "a large product reaches" in parts["The ceiling"]
    assert "| ours | " in parts["A training step of FLUX.1's shape"]
    assert "| 64 | 1 | " in parts["FLUX.2 klein's shape"]
