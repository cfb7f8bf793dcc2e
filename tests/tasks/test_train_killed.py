"""Training that is killed, again and again, ends in the same bytes as training that was left alone."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import yaml

from tests.tasks.stage_process import bytes_of, kill, start
from tests.tasks.trainable import make_trainable
from tlora.metadata.adapter import WEIGHTS_FILE

pytestmark = pytest.mark.slow

KILLS, KILLS_IN_A_WRITE, KILLS_THROUGH_DVC = 12, 5, 3


def wait_for_a_write(folder: Path, process: BaseProcess) -> None:
    """Wait until a checkpoint or a state is half written, or the process ends."""
    while process.is_alive() and not any((folder / ".state/train").rglob("*.partial")):
        time.sleep(0.0005)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run that was left alone, and how long it took."""
    folder = make_trainable(tmp_path_factory.mktemp("unbroken"))
    started = time.monotonic()
    process = start(folder)
    process.join()
    assert process.exitcode == 0, (folder / "train.log").read_text()
    return folder, time.monotonic() - started


def test_killed_at_twenty_points_it_ends_in_the_same_bytes(unbroken: tuple[Path, float], tmp_path: Path) -> None:
    seed = int(os.environ.get("TLORA_KILL_SEED", time.time_ns() % 10**6))
    print(f"kill seed {seed} (TLORA_KILL_SEED={seed} repeats it)")
    points, folder = random.Random(seed), make_trainable(tmp_path / "killed")
    reference, seconds = unbroken
    for number in range(KILLS + KILLS_IN_A_WRITE):
        process = start(folder)
        if number < KILLS_IN_A_WRITE:
            wait_for_a_write(folder, process)
        else:
            process.join(points.uniform(0.1, 1.0) * seconds)
        kill(process.pid or 0)
        process.join()
    for _ in range(KILLS_THROUGH_DVC):
        repro = subprocess.Popen(["dvc", "repro"], cwd=folder, env=environment(), start_new_session=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            repro.wait(points.uniform(8, 16))
        kill(repro.pid)
        repro.wait()
    subprocess.run(["dvc", "repro"], cwd=folder, env=environment(), check=True)
    assert bytes_of(folder / "adapters") == bytes_of(reference / "adapters")
    steps = [json.loads(line)["step"] for line in (folder / "reports/train/log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, steps[-1] + 1))


def environment() -> dict[str, str]:
    """Return the environment of a person whose shell finds this Python and the tree under test."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(Path(__file__).parents[2])}


def test_asked_to_stop_it_saves_the_step_and_goes_on_from_there(unbroken: tuple[Path, float], tmp_path: Path) -> None:
    folder = make_trainable(tmp_path / "asked")
    process = start(folder)
    log = folder / "train.log"
    while process.is_alive() and not (log.exists() and list((folder / ".state/train").rglob("state-*.safetensors"))):
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join()
    assert process.exitcode == 75
    assert json.loads((folder / ".state/last_exit.json").read_text())["code"] == 75
    again = start(folder)
    again.join()
    assert again.exitcode == 0
    assert "going on from step" in log.read_text()
    assert bytes_of(folder / "adapters") == bytes_of(unbroken[0] / "adapters")


def test_asked_to_stop_while_the_final_adapter_is_published_it_ends_as_it_would_have(
    unbroken: tuple[Path, float], tmp_path: Path
) -> None:
    folder = make_trainable(tmp_path / "late")
    process = start(folder, signal_at="final")
    process.join()
    log = (folder / "train.log").read_text()
    assert process.exitcode == 0, log
    assert "asked to stop" in log
    assert bytes_of(folder / "adapters") == bytes_of(unbroken[0] / "adapters")


def test_a_damaged_state_is_passed_over_for_the_one_before(unbroken: tuple[Path, float], tmp_path: Path) -> None:
    folder = make_trainable(tmp_path / "damaged")
    start(folder).join()
    states = sorted((folder / ".state/train").rglob("state-*.safetensors"))
    assert len(states) == 2
    states[-1].write_bytes(states[-1].read_bytes()[:1000])
    again = start(folder)
    again.join()
    assert again.exitcode == 0
    assert "is damaged" in (folder / "train.log").read_text()
    assert bytes_of(folder / "adapters") == bytes_of(unbroken[0] / "adapters")


@pytest.fixture
def small_disk(unbroken: tuple[Path, float], tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Make .state of a folder a disk with half the room that the run needs; called again, it has enough."""
    folder = make_trainable(tmp_path / "full") / ".state"
    needed = sum(file.stat().st_size for file in (unbroken[0] / ".state/train").rglob("*") if file.is_file())
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("no right to mount a small disk: run as root")
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o"]
    subprocess.run([*mount, f"size={needed // 2}", "tmpfs", str(folder)], check=True)
    yield lambda: subprocess.run([*mount[:1], "-o", f"remount,size={needed * 4}", str(folder)], check=True)
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_with_room_again_it_goes_on_to_the_same_bytes(
    unbroken: tuple[Path, float], small_disk: Callable[[], None], tmp_path: Path
) -> None:
    folder = tmp_path / "full"
    log = folder / "train.log"
    first = start(folder)
    first.join()
    assert first.exitcode == 2
    last = log.read_text().splitlines()[-1]
    told = f"train: error: No space left on device: free some below {folder} and run it again, it goes on where it was"
    assert last == told, log.read_text()
    assert "Traceback" not in log.read_text()
    small_disk()
    again = start(folder)
    again.join()
    assert again.exitcode == 0, log.read_text()
    assert "going on from step" in log.read_text()
    assert bytes_of(folder / "adapters") == bytes_of(unbroken[0] / "adapters")
    steps = [json.loads(line)["step"] for line in (folder / "reports/train/log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, steps[-1] + 1))


def test_another_setting_starts_afresh_and_names_it(unbroken: tuple[Path, float], tmp_path: Path) -> None:
    folder = make_trainable(tmp_path / "changed")
    start(folder).join()
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["train"]["learning_rate"] = 5e-3
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    start(folder).join()
    assert (
        "starting afresh at step 0: params.train.training.optimizer.learning_rate was 0.01, is 0.005"
        in (folder / "train.log").read_text()
    )
    final = f"final/{WEIGHTS_FILE}"
    assert bytes_of(folder / "adapters")[final] != bytes_of(unbroken[0] / "adapters")[final]
