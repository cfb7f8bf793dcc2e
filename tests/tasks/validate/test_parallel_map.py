"""The same work by processes and by Ray, on this machine: the same results, bit for bit, and nothing left running."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from tasks.validate.parallel_map import WorkerDied, map_in_order
from tests.processes import marked_processes
from tests.tasks.data_folder import texture

ROOT = Path(__file__).parents[3]
STAGE = "from tasks.running.cli import run_stage; from tasks.validate.stage import validate; run_stage(validate)"
PARAMS = """
model: {path: nowhere, revision: '', dtype: float32, device: auto, quantisation: none}
validate: {min_side: 32, max_aspect: 3.0, min_sharpness: 0.02, near_copy_bits: 8, engine: ENGINE}
cache_latents: {resolution: 64, center_crop: true, random_flip: false, views_per_picture: 1, min_scale: 0.3, max_scale: 1}
cache_prompts: {max_sequence_length: 77}
"""


def negatives(numbers: Sequence[int]) -> list[int]:
    return [-number for number in numbers]


def stop_at_twenty(numbers: Sequence[int]) -> Sequence[int]:
    if 20 in numbers:
        os._exit(1)
    return numbers


def test_results_come_in_order_and_a_dead_worker_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})  # on one core the work would be done, and die, in here
    assert list(map_in_order(negatives, range(-100, 0), "processes")) == list(range(100, 0, -1))
    assert list(map_in_order(negatives, range(-3, 0), "processes")) == [3, 2, 1]
    with pytest.raises(WorkerDied, match=r"^a worker process died, perhaps for lack of memory: run again, it goes on$"):
        list(map_in_order(stop_at_twenty, range(100), "processes"))


@pytest.mark.slow
def test_ray_gives_the_same_manifests_and_reports_and_leaves_no_process(data: Path) -> None:
    for n in range(6, 40):
        texture(n, (48, 64)).save(data / f"picture_{n}.png")
        (data / f"picture_{n}.txt").write_text(f"a matbrk wall, number {n}")
    outputs, heard_on = {}, set()
    for engine in ("processes", "ray"):
        Path("params.yaml").write_text(PARAMS.replace("ENGINE", engine))
        for cache in Path().glob(".state/cache/validate/*"):
            cache.unlink()
        folders = [
            *("--data", "data/images", "--concept", "concept.yaml"),
            *("--manifest", engine, "--report", f"{engine}/report"),
        ]
        command = [sys.executable, "-c", STAGE, *folders]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        environment |= {"PYTHONPATH": str(ROOT), "MARK": str(data)}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as stage:
            while stage.poll() is None:
                heard_on |= {address for process in marked_processes(str(data)) for address in _listening(process)}
                time.sleep(0.2)
            assert (stage.returncode, stage.stderr.read()) == (0, ""), stage.stdout.read()
        outputs[engine] = {path.name: path.read_bytes() for path in Path(engine).rglob("*.*")}
    assert len(outputs["ray"]) == 5
    assert outputs["ray"] == outputs["processes"]
    assert marked_processes(str(data)) == []
    assert heard_on <= {"127.0.0.1", "::ffff:127.0.0.1"}
    assert heard_on


def _listening(process: psutil.Process) -> set[str]:
    try:
        return {c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN}
    except psutil.Error:
        return set()
