"""`python -m benchmarks.gpu --minutes 8`: what is worth knowing of a GPU first, in the order in which it is worth most.

Each part has a share of the time, and what its share does not suffice for is left out, which is said. So is a contender that is
not installed (PEFT).
"""

import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import Flux2Transformer2DModel
from safetensors.torch import load_file

from benchmarks import gpu, sampling
from benchmarks.measure import machine, take_turns
from tlora.runtime.preemption import PREEMPTED
from tlora.runtime.yaml_text import parse_yaml
from tlora.training.mfu import matmul_rate
from tlora.training.peak_memory import peak_bytes, restart_peak

TEXT_TOKENS = 77
KLEIN: dict[str, Any] = {
    "num_layers": 5,
    "num_single_layers": 20,
    "num_attention_heads": 24,
    "joint_attention_dim": 7680,
    "guidance_embeds": False,
}
KLEIN_TINY: dict[str, Any] = {
    "num_layers": 1,
    "num_single_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "joint_attention_dim": 48,
}
KLEIN_TINY |= {"axes_dims_rope": (8, 8, 8, 8), "in_channels": 16, "guidance_embeds": False}
_FLAT = Path("configs/pocket.yaml")


class _TimeUp(Exception):
    """The time of a part, or of all of it, is over."""


@dataclass(frozen=True)
class Day:
    """What is measured on.

    Args:
        place: Device and type.
        smoke: Tiny shapes and few steps, to see it run.
        rounds: Counted rounds of contenders.
    """

    place: gpu.Place
    smoke: bool
    rounds: int


def run_day(day: Day, minutes: float) -> None:
    """Print a table for each part, and stop in time.

    Args:
        day: What is measured on.
        minutes: For all of it.
    """
    end, parts = time.monotonic() + 60 * minutes, PARTS
    for title, (part, until) in parts.items():
        print(f"\n## {title}\n", flush=True)
        left = end - time.monotonic() - 60 * minutes * (1 - until)
        try:
            with _at_most(left):
                for line in part(day):
                    print(line, flush=True)
        except _TimeUp:
            print("not measured further: the time for it was over", flush=True)
        except torch.OutOfMemoryError:
            print("not measured further: the memory ran out", flush=True)
        except (subprocess.CalledProcessError, OSError, RuntimeError) as error:
            print(f"not measured further: {str(error).splitlines()[0]}", flush=True)  # the parts after it may do
        _let_go()


def _let_go() -> None:
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    if seconds < 1:
        raise _TimeUp

    def stop(signum: int, frame: FrameType | None) -> None:
        raise _TimeUp

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _ceiling(day: Day) -> Iterator[str]:
    rate = matmul_rate(day.place.device, day.place.dtype)
    yield f"| {machine()} | {day.place.dtype} |\n| --- | --- |\n| a large product reaches | {rate / 1e12:.3g} TFLOP/s |"


def _training_steps(day: Day) -> Iterator[str]:
    sizes = [(512, 4), (1024, 1), (512, 1), (512, 6), (1024, 2), (1024, 4)]  # what is wanted first
    ways = itertools.product([(False, 0), (True, 0), (False, 4), (True, 4)], sizes)
    cases = [gpu.Case(p, b, TEXT_TOKENS, compiled, every) for (compiled, every), (p, b) in ways]
    if day.smoke:
        cases = [gpu.Case(64, 2, 8, False, 0)]
    yield gpu.HEAD
    rate, base = matmul_rate(day.place.device, day.place.dtype), gpu.make_base(day.place, gpu.TINY if day.smoke else {})
    for case in cases:
        torch.compiler.reset()
        for row in gpu.rows(day.place, base, case, rate, day.rounds):
            yield f"| {case} | {row} |"


def _klein(day: Day) -> Iterator[str]:
    """Measure the bare network of FLUX.2 klein; adapters of ours do not fit it yet."""
    network = gpu.random_network(day.place, partial(Flux2Transformer2DModel, **(KLEIN_TINY if day.smoke else KLEIN)))
    yield "The bare network alone, forward and backward to the latents: no adapter of ours fits FLUX.2 yet.\n"
    yield "| pixels | batch | s/step | images/s | peak GB |\n| --- | --- | --- | --- | --- |"
    for pixels, batch in [(64, 1)] if day.smoke else [(512, 1), (512, 4), (1024, 1), (1024, 2)]:
        step = _klein_step(day, network, pixels // gpu.PIXELS_PER_TOKEN, batch)
        step()
        restart_peak(day.place.device)
        seconds = statistics.median(take_turns({"klein": step}, day.rounds)["klein"])
        yield f"| {pixels} | {batch} | {seconds:.4f} | {batch / seconds:.2f} | {peak_bytes(day.place.device) / 1e9:.1f} |"


def _klein_step(day: Day, network: Flux2Transformer2DModel, side: int, batch: int) -> Callable[[], None]:
    config, device, text = network.config, day.place.device, 8 if day.smoke else 512
    latents = torch.randn(batch, side**2, config.in_channels, device=device, dtype=day.place.dtype, requires_grad=True)
    captions = torch.randn(batch, text, config.joint_attention_dim, device=device, dtype=day.place.dtype)
    rows = torch.cartesian_prod(torch.arange(side, device=device), torch.arange(side, device=device))
    ids = {"img_ids": F.pad(rows, (1, 1)).float(), "txt_ids": torch.zeros(text, 4, device=device)}
    timestep = torch.full((batch,), 0.5, device=device, dtype=day.place.dtype)

    def step() -> None:
        inputs = {"hidden_states": latents, "encoder_hidden_states": captions, "timestep": timestep} | ids
        network(**inputs, return_dict=False)[0].float().square().mean().backward()
        latents.grad = None
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def _sampling_step(day: Day) -> Iterator[str]:
    place = day.place
    base = gpu.make_base(place, gpu.TINY if day.smoke else {}).eval()
    ours = gpu.with_ours(gpu.twin(base)).eval()
    yield "| pixels | bare base, s | ours unmerged, s | ratio |\n| --- | --- | --- | --- |"
    for pixels in [64] if day.smoke else [512, 1024]:
        inputs, _ = gpu.inputs_of(place, base, gpu.Case(pixels, 1, 8 if day.smoke else TEXT_TOKENS, False, 0))
        mask = torch.ones(1, gpu.RANK, device=place.device)
        with torch.no_grad():
            steps = {"base": partial(sampling.forward, base, inputs), "ours": partial(sampling.forward, ours, inputs, mask)}
            seconds = {name: statistics.median(times) for name, times in take_turns(steps, 3 * day.rounds, warm_up=2).items()}
        yield f"| {pixels} | {seconds['base']:.4f} | {seconds['ours']:.4f} | {seconds['ours'] / seconds['base']:.3f} |"


def _resume(day: Day) -> Iterator[str]:
    """Train the pocket twice in one go and once with a stop in its middle, by `tlora train`, and compare what was learnt."""
    steps = 4 if day.smoke else 60
    with tempfile.TemporaryDirectory() as folder:
        runs = {"unbroken": None, "unbroken again": None, f"stopped at step {steps // 2} or after": steps // 2}
        for name, stop_at in runs.items():
            _train(Path(folder) / name, steps, stop_at)
        learnt = {name: load_file(next((Path(folder) / name / "final").glob("*.safetensors"))) for name in runs}
    yield "| compared with an unbroken run | largest difference of a weight |\n| --- | --- |"
    for name in list(runs)[1:]:
        apart = max(float((learnt[name][key].float() - value.float()).abs().max()) for key, value in learnt["unbroken"].items())
        yield f"| {name} | {apart:.3g} |"


def _train(output: Path, steps: int, stop_at: int | None) -> None:
    file = output.with_suffix(".yaml")
    settings = {"output_dir": json.dumps(str(output)), "max_train_steps": str(steps), "checkpointing_steps": str(steps)}
    lines = [line for line in _FLAT.read_text(encoding="utf-8").splitlines() if line.partition(":")[0] not in settings]
    file.write_text("\n".join([*lines, *(f"{key}: {value}" for key, value in settings.items())]), encoding="utf-8")
    command = [sys.executable, "-m", "tlora.cli", "train", "--config", str(file)]
    training = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while stop_at and training.poll() is None and _steps_in(output) < stop_at:
            time.sleep(0.02)
        if stop_at:
            training.send_signal(signal.SIGTERM)
            if training.wait() != PREEMPTED:
                raise RuntimeError(f"{output.name}: it had ended before it was stopped")
            training = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        if training.wait():
            raise subprocess.CalledProcessError(training.returncode, command)
    finally:
        training.kill()


def _steps_in(output: Path) -> int:
    """Return how many steps a run has logged so far, below its output folder."""
    return max((len(log.read_text(encoding="utf-8").splitlines()) for log in output.rglob("log.jsonl")), default=0)


def _pocket(day: Day) -> Iterator[str]:
    """Run the stages `train` and `evaluate` of the pocket on this device and on the CPU, a process each."""
    yield "| the pocket's | device | s |\n| --- | --- | --- |"
    devices = ["cpu"] if day.smoke else ["cuda", "cpu"]
    for device in devices:
        with tempfile.TemporaryDirectory() as folder:
            hidden = {} if device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
            for stage, seconds in _stages(Path(folder), hidden, smoke=day.smoke):
                yield f"| {stage} | {device} | {seconds:.1f} |"


def _stages(folder: Path, hidden: dict[str, str], *, smoke: bool) -> Iterator[tuple[str, float]]:
    root = Path(__file__).parents[1]
    for name in ("data", "models", "concept.yaml", "dvc.yaml"):
        (folder / name).symlink_to(root / name)
    params = (root / "params/pocket.yaml").read_text(encoding="utf-8")
    if smoke:
        params = params.replace("max_train_steps: 200", "max_train_steps: 4").replace("ing_steps: 25", "ing_steps: 4")
    (folder / "params.yaml").write_text(params, encoding="utf-8")
    environment = os.environ | hidden | {"PYTHONPATH": str(root)}
    for stage, asked in parse_yaml((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"].items():
        if stage == "register" or (smoke and stage == "evaluate"):
            continue
        started = time.monotonic()
        words = [sys.executable, *asked["cmd"].split()[1:]]
        subprocess.run(words, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
        if stage in ("train", "evaluate"):
            yield stage, time.monotonic() - started


PARTS: dict[str, tuple[Callable[[Day], Iterator[str]], float]] = {  # and by which share of the time each ends at the latest
    "The ceiling": (_ceiling, 0.05),
    "A training step of FLUX.1's shape": (_training_steps, 0.55),
    "FLUX.2 klein's shape": (_klein, 0.63),
    "A sampling step, unmerged": (_sampling_step, 0.7),
    "Exact resume": (_resume, 0.82),
    "The pocket's stages": (_pocket, 1.0),
}
