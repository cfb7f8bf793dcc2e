"""The rule of the house, checked on a run of its own: where no skip is allowed, a skipped test fails the run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SKIPPING = "import pytest\n\ndef test_passes(): pass\n\n@pytest.mark.skip\ndef test_is_skipped(): pass\n"


@pytest.mark.slow
@pytest.mark.parametrize(("no_skip", "code"), [("", 0), ("1", 1)])
def test_a_skip_fails_the_run_only_where_none_is_allowed(tmp_path: Path, no_skip: str, code: int):
    (tmp_path / "test_skipping.py").write_text(SKIPPING)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        os.devnull,
        "-p",
        "tests.conftest",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    run = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"TLORA_NO_SKIP": no_skip}, capture_output=True, text=True, check=False
    )
    assert run.returncode == code, run.stdout
    assert ("1 skipped, none allowed" in run.stdout) == bool(no_skip)
    assert run.stdout.splitlines()[-1].startswith("=")
