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
        timeout=300,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "|" in run.stdout
