"""Every `python -m` of the project answers --help, takes what it documents and refuses the rest, before it does anything."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("studio", "flows", "tasks", "tlora", "pocket", "benchmarks")
WALK = """\
import importlib, json, os, runpy, sys
names = [name for name in sys.argv[1:] if importlib.import_module(name)]  # once for all: each command is a fork of this process

def answer(module, arguments):
    reading, writing = os.pipe()
    if not os.fork():
        os.dup2(writing, 1), os.dup2(writing, 2)
        sys.argv = [module, *arguments]
        sys.modules.pop(module)
        code = 70
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as exit:
            code = exit.code or 0
        except BaseException as error:
            print(f"Traceback: {error!r}")
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)
    os.close(writing)
    with os.fdopen(reading) as said:
        text = said.read()
    return os.waitstatus_to_exitcode(os.wait()[1]), text

print(json.dumps({m: [answer(m, a) for a in (["--help"], ["--no-such-option"], ["surplus"])] for m in names}))
"""


def commands() -> list[str]:
    """Return what can be run with `python -m`: whatever has something to do when it is."""
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    runnable = [file for file in files if re.search(r'^if __name__ == "__main__"', file.read_text(), re.MULTILINE)]
    return [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in runnable]


@pytest.mark.slow
def test_every_command_answers_help_and_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    """In an empty folder: what ignored its arguments would fail, or do something, there."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "130"}
    walk = subprocess.run(
        [sys.executable, "-c", WALK, *commands()], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    said = json.loads(walk.stdout.splitlines()[-1])
    assert {"flows.pipeline", "flows.plan", "tasks.train.__main__", "pocket.__main__", "tlora.cli"} <= said.keys()
    for module, ((helped, usage), (unknown, refusal), (surplus, refused)) in said.items():
        assert helped == 0, (module, usage)
        assert usage.startswith("usage: "), (module, usage)
        assert (unknown, surplus) == (2, 2), (module, refusal, refused)
        assert "Traceback" not in usage + refusal + refused, (module, usage, refusal, refused)
    assert list(tmp_path.iterdir()) == []
    assert "--overrides" in said["flows.pipeline"][0][1]
