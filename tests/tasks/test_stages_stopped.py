"""Stages that are asked to stop in the middle of their work: out at once, with one line, and whole when they are run again.

Training has tests of its own, in `test_train_killed.py`.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tasks.cache_latents.stage import cache_latents
from tasks.cache_prompts.stage import cache_prompts
from tasks.evaluate.stage import evaluate
from tasks.validate.stage import validate
from tests.tasks.data_folder import texture
from tests.tasks.evaluable import make_evaluable
from tests.tasks.stage_commands import options_of, outputs_of
from tests.tasks.stage_process import bytes_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LIMIT = 10.0  # seconds from the signal to the end
LINE = "error: stopped by the keyboard or a signal"


@dataclass(frozen=True)
class Case:
    """A stage that is stopped: by what, when, and what keeps it busy for long enough to be met at work."""

    stage: Callable[..., None]
    number: signal.Signals
    is_at_work: Callable[[int], bool]
    busy: Callable[[], None]

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.stage.__name__


def set_params(section: str, **changes: Any) -> Callable[[], None]:
    """Return what changes params.yaml in the working folder."""

    def change() -> None:
        params = yaml.safe_load(Path("params.yaml").read_text())
        params[section] |= changes
        Path("params.yaml").write_text(yaml.safe_dump(params))

    return change


def add_large_pictures() -> None:
    for n in range(10, 32):
        texture(n, (1000, 1000)).save(f"data/images/picture_{n}.png", compress_level=1)
        Path(f"data/images/picture_{n}.txt").write_text(f"a matbrk wall, number {n}")


def ask_for_many_prompts() -> None:
    text = Path("concept.yaml").read_text()
    many = [f"a matbrk wall, {n}" for n in range(100)]
    Path("concept.yaml").write_text(text.replace("[a matbrk wall]", json.dumps(many)))


def holds_the_device(pid: int) -> bool:
    lock = Path("tlora-cpu.lock")
    return lock.exists() and lock.read_text().startswith(f"{pid} ")


CASES = [
    Case(validate, signal.SIGTERM, lambda pid: len(psutil.Process(pid).children()) >= 2, add_large_pictures),
    Case(cache_prompts, signal.SIGINT, lambda _: any(Path(".state/cache/prompts").rglob("*.safetensors")), ask_for_many_prompts),
    Case(
        cache_latents,
        signal.SIGTERM,
        lambda _: any(Path(".state/cache/latents").rglob("*.safetensors")),
        set_params("cache_latents", resolution=224),
    ),
    Case(evaluate, signal.SIGTERM, holds_the_device, set_params("evaluate", seeds=8, num_inference_steps=8)),
]


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage but training and registering can run."""
    folder, before = tmp_path_factory.mktemp("ready"), Path.cwd()
    os.chdir(folder)
    try:
        make_evaluable(folder)
    finally:
        os.chdir(before)
    return folder


@pytest.mark.parametrize(
    ("case", "signals"), [(case, 1) for case in CASES] + [(CASES[0], 2)], ids=lambda it: getattr(it, "name", it)
)
def test_asked_to_stop_it_is_out_at_once_with_one_line_and_run_again_it_ends_in_the_same_bytes(
    case: Case, signals: int, ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = case.name
    folder, unbroken = tmp_path / "stopped", tmp_path / "unbroken"
    for where in (unbroken, folder):
        shutil.copytree(ready, where)
        monkeypatch.chdir(where)
        leave_to_do(case)

    with start(name, folder) as process:
        wait_for_work(case, process)
        asked = time.monotonic()
        for _ in range(signals):
            os.killpg(process.pid, case.number)  # as a flow does, workers too
        _, errors = process.communicate(timeout=30)
    took = time.monotonic() - asked
    print(f"{name}: {took:.2f} s, exit {process.returncode}, {errors!r}")
    assert took < LIMIT
    assert "Traceback" not in errors
    if signals == 1:
        own = [line for line in errors.splitlines() if line.startswith(name)]  # not what libraries say while they load
        assert (process.returncode, own) == (130, [f"{name}: {LINE}"])
        left = json.loads(Path(".state/last_exit.json").read_text())
        assert (left["stage"], left["code"], left["reason"]) == (name, 130, LINE.removeprefix("error: "))
        assert [*folder.rglob("*.partial")] == []
    else:
        assert process.returncode in (130, -case.number)
    assert not Path(outputs_of(name)[-1]).exists()

    with start(name, folder) as again, start(name, unbroken) as other:
        for run in (again, other):
            _, errors = run.communicate()
            assert run.returncode == 0, errors
    assert written(name, folder) == written(name, unbroken)
    assert len(written(name, folder)) >= 2


@pytest.mark.parametrize("case", [case for case in CASES if case.stage in (cache_prompts, cache_latents)], ids=lambda it: it.name)
def test_a_cache_stage_that_is_killed_encodes_what_is_missing_and_no_more(
    case: Case, ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "killed"
    shutil.copytree(ready, folder)
    monkeypatch.chdir(folder)
    leave_to_do(case)
    with start(case.name, folder) as process:
        wait_for_work(case, process)
        process.kill()
    kept = list(Path(".state/cache").rglob("*.safetensors"))
    assert not any(Path(out).exists() for out in outputs_of(case.name))
    with start(case.name, folder) as again:
        said, errors = again.communicate()
    assert again.returncode == 0, errors
    items = list(Path(".state/cache").rglob("*.safetensors"))
    assert 0 < len(kept) < len(items)
    assert sum(map(int, re.findall(r"(\d+) encoded now", said))) == len(items) - len(kept)


def leave_to_do(case: Case) -> None:
    """Take away what a stage made, and give it enough to do."""
    for path in (".state", *(str(Path(out).parent if out.endswith(".json") else out) for out in outputs_of(case.name))):
        shutil.rmtree(path, ignore_errors=True)
    case.busy()


def start(name: str, folder: Path) -> "subprocess.Popen[str]":
    """Start a stage as DVC does, in a process group of its own; the lock of the device is the folder's own too."""
    return subprocess.Popen(
        [sys.executable, "-m", f"tasks.{name}", *options_of(name)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_work(case: Case, process: "subprocess.Popen[str]") -> None:
    while process.poll() is None and not case.is_at_work(process.pid):
        time.sleep(0.002)
    time.sleep(0.05)
    assert process.poll() is None, process.communicate()


def written(name: str, folder: Path) -> dict[str, str]:
    """Return the hash of every file that a stage wrote."""
    hashes = bytes_of(folder)
    return {file: digest for file, digest in hashes.items() if file.startswith(tuple(outputs_of(name)))}
