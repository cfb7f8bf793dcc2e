"""What an adapter costs in training: a step of the frozen base as the floor, ours, PEFT's LoRA and LyCORIS' T-LoRA.

The shape is that of `benchmarks.sampling`: FLUX's with 82 M parameters, 28 adapted attention Linears at rank 16. The floor is
the frozen base, forward and backward to the packed latents, with nothing adapted. Ours has a mask a sample; LyCORIS has one
for the batch, and runs in its default mode, which adds the update to the weight; PEFT has none. With `--variants` they are the
frozen base and ours alone, as they are, with compiled blocks, and with all or some of the blocks recomputed in backward.
"""

import argparse
import ctypes
import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection

import torch
import torch.nn.functional as F
from diffusers import FluxTransformer2DModel
from lycoris import LycorisNetwork, create_lycoris
from lycoris.modules.tlora import set_timestep_mask
from torch import Tensor, nn

from benchmarks.measure import machine, ratio, take_turns
from benchmarks.sampling import CHANNELS, SMOKE, Shape, bare, forward, inputs_of, with_adapter, with_peft
from tlora.inject import tlora_parameters
from tlora.schedule import RankSchedule
from tlora.training.optimizer import OptimizerSettings, build_optimizer
from tlora.training.peak_memory import held_bytes, peak_bytes, restart_peak
from tlora.training.recompute import compile_blocks, recompute_blocks

FLOOR = "frozen base (floor)"
_M_MMAP_THRESHOLD = -3  # of glibc's mallopt


@dataclass(frozen=True)
class Contender:
    """A transformer, and what is trained of it."""

    transformer: FluxTransformer2DModel
    parameters: list[nn.Parameter]
    is_masked: bool = False


def main(arguments: list[str] | None = None) -> None:
    """Print a table for each batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a tiny shape, to see it run")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--variants", action="store_true", help="ours compiled and recomputed instead of the peers")
    parser.add_argument("--cpu-time", action="store_true", help="by the CPU time of this process, for a busy machine")
    options = parser.parse_args(arguments)
    shape = SMOKE if options.smoke else Shape(768, 16, 77, 1, 16, torch.float32, "cpu")
    clock = time.process_time if options.cpu_time else time.perf_counter
    batches = (2,) if options.smoke else (1, 4)
    builders = VARIANTS if options.variants else BUILDERS
    # Before any thread is started.
    peaks = {batch: {name: measure_apart(build, shape, batch) for name, build in builders.items()} for batch in batches}
    print(f"{machine()}; rank {shape.rank}, {shape.dtype}, {'CPU' if options.cpu_time else 'wall'} time")
    contenders = {name: build(shape) for name, build in builders.items()}
    for batch in batches:
        compare(contenders, shape, batch, peaks[batch], 2 if options.smoke else options.rounds, clock)


def compare(
    contenders: dict[str, Contender],
    shape: Shape,
    batch: int,
    peaks: dict[str, float],
    rounds: int,
    clock: Callable[[], float],
) -> None:
    """Time the contenders in turns, without and with AdamW, and print what they took."""
    turns: dict[str, Callable[[], object]] = {}
    for name, contender in contenders.items():
        turns[name] = stepper(contender, shape, batch, optimised=False)
        if contender.parameters:
            turns[f"{name}, AdamW"] = stepper(contender, shape, batch, optimised=True)
    seconds = take_turns(turns, rounds, warm_up=2, clock=clock)
    print(f"\n| batch {batch} | ms | of the floor | with AdamW, ms | of the floor | peak MB |\n|" + " --- |" * 6)
    for name, contender in contenders.items():
        cells = [cell(seconds, name), cell(seconds, f"{name}, AdamW") if contender.parameters else "- | -"]
        print(f"| {name} | {' | '.join(cells)} | {peaks[name] / 1e6:.0f} |", flush=True)


def cell(seconds: dict[str, list[float]], name: str) -> str:
    """Return median and median ratio of one contender."""
    return f"{statistics.median(seconds[name]) * 1e3:.1f} | {ratio(seconds, name, FLOOR):.3f}"


def stepper(contender: Contender, shape: Shape, batch: int, *, optimised: bool) -> Callable[[], object]:
    """Return one training step: forward, backward, and with `optimised` AdamW's step."""
    inputs = batch_of(shape, batch)
    target = torch.randn(batch, shape.image_side**2, CHANNELS, generator=torch.Generator().manual_seed(1))
    inputs["hidden_states"].requires_grad_(not contender.parameters)
    mask = masks_of(shape, batch) if contender.is_masked else None
    optimizer = build_optimizer(contender.parameters, OptimizerSettings(learning_rate=1e-6)) if optimised else None

    def step() -> None:
        F.mse_loss(forward(contender.transformer, inputs, mask), target).backward()
        if optimizer:
            optimizer.step()
        for tensor in (*contender.parameters, inputs["hidden_states"]):
            tensor.grad = None

    return step


def batch_of(shape: Shape, batch: int) -> dict[str, Tensor]:
    """Return a batch of the sampling benchmark's inputs; image and text ids have no batch axis."""
    inputs = inputs_of(shape)
    return {k: v if k.endswith("_ids") else v.repeat(batch, *[1] * (v.ndim - 1)) for k, v in inputs.items()}


def masks_of(shape: Shape, batch: int) -> Tensor:
    """Return the masks of timesteps spread over the schedule."""
    return RankSchedule(shape.rank, 1).mask(torch.linspace(0, 1000, batch + 2)[1:-1])


def floor(shape: Shape) -> Contender:
    """Return the bare base."""
    return Contender(bare(shape), [])


def ours(shape: Shape) -> Contender:
    """Return the base with our layers."""
    transformer = with_adapter(shape)
    return Contender(transformer, list(tlora_parameters(transformer)), is_masked=True)


def peft(shape: Shape) -> Contender:
    """Return the base with PEFT's layers."""
    transformer = with_peft(shape)
    return Contender(transformer, [p for p in transformer.parameters() if p.requires_grad])


def lycoris(shape: Shape) -> Contender:
    """Return the base with LyCORIS' T-LoRA around the same Linears."""
    transformer = bare(shape)
    LycorisNetwork.apply_preset({"target_module": ["FluxAttention"], "target_name": []})
    gc.freeze()  # LyCORIS collects after every layer, two seconds each time
    network = create_lycoris(transformer, 1.0, linear_dim=shape.rank, linear_alpha=shape.rank, algo="tlora")
    gc.unfreeze()
    network.apply_to()
    set_timestep_mask(masks_of(shape, 1))
    transformer.__dict__["network"] = network  # alive as long, and no submodule
    return Contender(transformer, [p for p in network.parameters() if p.requires_grad])


def changed(build: Callable[[Shape], Contender], change: Callable[[nn.Module], None], shape: Shape) -> Contender:
    """Return a contender whose blocks are run in another way."""
    contender = build(shape)
    contender.transformer.train()  # recomputing is for training; nothing here drops out
    change(contender.transformer)
    return contender


BUILDERS: dict[str, Callable[[Shape], Contender]] = {
    FLOOR: floor,
    "ours": ours,
    "PEFT LoRA": peft,
    "LyCORIS T-LoRA": lycoris,
}
VARIANTS: dict[str, Callable[[Shape], Contender]] = {
    FLOOR: floor,
    "ours": ours,
    "frozen base, compiled": partial(changed, floor, compile_blocks),
    "ours, compiled": partial(changed, ours, compile_blocks),
    **{
        f"ours, recomputed: {words}": partial(changed, ours, partial(recompute_blocks, every=every))
        for every, words in ((4, "every 4th block"), (2, "every other block"), (1, "every block"))
    },
}


def measure_apart(build: Callable[[Shape], Contender], shape: Shape, batch: int) -> float:
    """Return the peak of two steps, in bytes above what the process held before the model was made, in a process of its own."""
    fork = multiprocessing.get_context("fork")  # importing everything again would take most of the time
    receiver, sender = fork.Pipe(duplex=False)
    child = fork.Process(target=_measure, args=(sender, build, shape, batch))
    child.start()
    sender.close()
    peak = float(receiver.recv())
    child.join()
    return peak


def _measure(sender: Connection, build: Callable[[Shape], Contender], shape: Shape, batch: int) -> None:
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 65536)  # freed memory goes back at once; glibc would keep some by chance
    torch.set_num_threads(1)
    device = torch.device("cpu")
    before = held_bytes(device)
    contender = build(shape)
    step = stepper(contender, shape, batch, optimised=bool(contender.parameters))
    restart_peak(device)
    for _ in range(2):
        step()
    sender.send(peak_bytes(device) - before)


if __name__ == "__main__":
    main()
