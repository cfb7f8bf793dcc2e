"""A training step at FLUX.1's true size on a GPU: 512 and 1024 pixels, batch 1 and 4, short and long captions, compiled or not.

The weights are random bfloat16 made on the device: what a step costs does not depend on them. The floor is the frozen base,
forward and backward to the packed latents; ours and PEFT's LoRA (where it is installed) share its weights. MFU is each
contender's. `--minutes 8` measures more than that, what matters most first, and stops in time: see `benchmarks/gpu_day.py`.
"""

import argparse
import copy
import importlib.util
import itertools
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from benchmarks.measure import machine, take_turns
from benchmarks.sampling import ATTENTION
from tlora.flux.noise import MAX_TIMESTEP, NoiseSettings
from tlora.flux.spec import FluxShape
from tlora.inject import inject_tlora_into_transformer
from tlora.metadata.config import TLoRAConfig
from tlora.schedule import RankSchedule
from tlora.training.memory_estimate import Workload, estimate_memory
from tlora.training.mfu import matmul_rate, step_cost
from tlora.training.optimizer import OptimizerSettings, build_optimizer
from tlora.training.peak_memory import peak_bytes, restart_peak
from tlora.training.recompute import compile_blocks, recompute_blocks
from tlora.training.settings import LoopSettings, TrainingSettings

Network = TypeVar("Network", bound=nn.Module)
RANK = 16
PIXELS_PER_TOKEN = 16
COLUMNS = (
    "pixels | batch | text | compiled | recomputed | contender | s/step | of the floor | images/s | mfu | peak GB | estimated"
)
HEAD = f"| {COLUMNS} |\n|{' --- |' * 12}"
TINY = {
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "axes_dims_rope": (8, 12, 12),
}
TINY |= {"joint_attention_dim": 48, "pooled_projection_dim": 16}


@dataclass(frozen=True)
class Case:
    """One row of the table for each contender; `recomputed` is `train.gradient_checkpointing`."""

    pixels: int
    batch: int
    text_tokens: int
    is_compiled: bool
    recomputed: int

    @property
    def side(self) -> int:
        """Image tokens on a side."""
        return self.pixels // PIXELS_PER_TOKEN

    def __str__(self) -> str:
        compiled, recomputed = "on" if self.is_compiled else "off", {0: "none", 1: "all"}.get(self.recomputed)
        return f"{self.pixels} | {self.batch} | {self.text_tokens} | {compiled} | {recomputed or f'every {self.recomputed}'}"


@dataclass(frozen=True)
class Place:
    """Where and in what it is computed, and by what compiled."""

    device: torch.device
    dtype: torch.dtype
    backend: str = "inductor"


def main(arguments: list[str] | None = None) -> None:
    """Print a row for each case and contender."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a tiny shape on the CPU, to see it run")
    parser.add_argument("--minutes", type=float, help="measure what matters most first, for so long")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pixels", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--text-tokens", type=int, nargs="+", default=[77, 512])
    parser.add_argument("--compile", type=int, nargs="+", default=[0, 1], help="0: off, 1: on")
    parser.add_argument("--checkpointing", type=int, nargs="+", default=[0, 2, 1], help="0: none, 1: all, n: every n-th block")
    options = parser.parse_args(arguments)
    if not options.smoke and not torch.cuda.is_available():
        print("not measured: no GPU here")
        return
    if options.smoke:
        place = Place(torch.device("cpu"), torch.float32, "eager")
        options.rounds = 2
        cases = [Case(64, 2, 8, True, 2), Case(64, 1, 8, False, 0)]
    else:
        place = Place(torch.device("cuda"), torch.bfloat16)
        chosen = (options.compile, options.checkpointing, options.pixels, options.batch, options.text_tokens)
        cases = [Case(p, b, t, bool(c), r) for c, r, p, b, t in itertools.product(*chosen)]
    if options.minutes:
        from benchmarks.gpu_day import Day, run_day

        run_day(Day(place, options.smoke, min(options.rounds, 3)), options.minutes)
    else:
        run(place, cases, TINY if options.smoke else {}, options.rounds)


def run(place: Place, cases: list[Case], shape: dict[str, object], rounds: int) -> None:
    """Measure every case, the contenders in turns."""
    rate = matmul_rate(place.device, place.dtype)
    print(f"{machine()}; rank {RANK}, {place.dtype}, a large product reaches {rate / 1e12:.3g} TFLOP/s\n")
    print(HEAD)
    base = make_base(place, shape)
    for case in cases:
        torch.compiler.reset()
        for row in rows(place, base, case, rate, rounds):
            print(f"| {case} | {row} |", flush=True)


def rows(place: Place, base: FluxTransformer2DModel, case: Case, rate: float, rounds: int) -> Iterator[str]:
    """Yield a line for each contender, or one that says that memory ran out."""
    contenders = {"floor": twin(base), "ours": with_ours(twin(base))}
    if importlib.util.find_spec("peft"):
        contenders["PEFT"] = with_peft(twin(base))
    steps = {name: stepper(place, contender.train(), case, name) for name, contender in contenders.items()}
    peaks: dict[str, int] = {}
    try:
        for name, step in steps.items():
            step()  # compiles
            restart_peak(place.device)
            step()
            peaks[name] = peak_bytes(place.device)
        seconds = take_turns(steps, rounds)
    except torch.OutOfMemoryError:
        yield f"{list(steps)[len(peaks)] if len(peaks) < len(steps) else 'together'} | out of memory | | | | |"
        return
    estimate = estimated_bytes(place, base, case) / 1e9
    for name, contender in contenders.items():
        median = statistics.median(seconds[name])
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds["floor"], strict=True))
        mfu = step_cost(contender).flops(case.batch, case.side**2, case.text_tokens) / median / rate
        memory = f"{peaks[name] / 1e9:.1f} | {estimate:.1f}"
        yield f"{name} | {median:.4f} | {ratio:.3f} | {case.batch / median:.2f} | {mfu:.1%} | {memory}"


def estimated_bytes(place: Place, base: FluxTransformer2DModel, case: Case) -> float:
    """Return the peak that is expected of training with our adapter, as `tlora doctor` works it out."""
    config = base.config
    width = config.num_attention_heads * config.attention_head_dim
    sizes = (config.num_layers, config.num_single_layers, width, config.attention_head_dim, config.joint_attention_dim)
    shape = FluxShape(*sizes, config.pooled_projection_dim, config.in_channels)
    adapter = TLoRAConfig(rank=RANK, alpha=RANK, min_rank=1)
    loop = LoopSettings(max_train_steps=1, train_batch_size=case.batch, gradient_checkpointing=case.recomputed)
    settings = TrainingSettings(adapter, NoiseSettings(), OptimizerSettings(learning_rate=1e-5), loop)
    dtype = str(place.dtype).removeprefix("torch.")
    load = Workload(case.side**2, case.text_tokens, dtype, "bf16" if dtype == "bfloat16" else "no")
    return estimate_memory(shape, settings, ATTENTION, load).total


def make_base(place: Place, shape: dict[str, object]) -> FluxTransformer2DModel:
    """Return a frozen FLUX.1-dev, or one of another shape, of random weights made on the device."""
    return random_network(place, partial(FluxTransformer2DModel, guidance_embeds=True, **shape))


def random_network(place: Place, make: Callable[[], Network]) -> Network:
    """Return a frozen network of random weights in the place's type, made on the device."""
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(place.dtype)
    try:
        with place.device:
            network = make()
    finally:
        torch.set_default_dtype(default)
    return network.requires_grad_(False)


def twin(base: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """Return a copy with the same tensors for weights: three of 24 GB would fit no card."""
    return copy.deepcopy(base, {id(t): t for t in itertools.chain(base.parameters(), base.buffers())})


def with_ours(transformer: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """Return it with our layers."""
    inject_tlora_into_transformer(transformer, ATTENTION, TLoRAConfig(rank=RANK, alpha=RANK, min_rank=1))
    return transformer


def with_peft(transformer: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """Return it with PEFT's layers."""
    from peft import LoraConfig

    transformer.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=ATTENTION))
    return transformer


def stepper(place: Place, transformer: FluxTransformer2DModel, case: Case, name: str) -> Callable[[], None]:
    """Return a training step that waits for its end: forward, backward, and AdamW where something learns."""
    if case.recomputed:
        recompute_blocks(transformer, case.recomputed)
    if case.is_compiled:
        compile_blocks(transformer, place.backend)
    learning = [p for p in transformer.parameters() if p.requires_grad]
    optimizer = build_optimizer(learning, OptimizerSettings(learning_rate=1e-5)) if learning else None
    inputs, target = inputs_of(place, transformer, case)
    inputs["hidden_states"].requires_grad_(not learning)
    masks = RankSchedule(RANK, 1).mask(MAX_TIMESTEP * inputs["timestep"].float().cpu()).to(place.device)
    given = {"sigma_mask": masks} if name == "ours" else None

    def step() -> None:
        prediction = transformer(**inputs, joint_attention_kwargs=given, return_dict=False)[0]
        F.mse_loss(prediction.float(), target).backward()
        if optimizer:
            optimizer.step()
        for tensor in learning or [inputs["hidden_states"]]:
            tensor.grad = None
        if place.device.type == "cuda":
            torch.cuda.synchronize()

    return step


def inputs_of(place: Place, transformer: FluxTransformer2DModel, case: Case) -> tuple[dict[str, Tensor], Tensor]:
    """Return random inputs of a batch, and what is to be predicted."""
    source = torch.Generator().manual_seed(0)
    config, batch = transformer.config, case.batch
    rows_and_columns = torch.cartesian_prod(torch.arange(case.side), torch.arange(case.side))
    packed = torch.randn(batch, case.side**2, config.in_channels, generator=source)
    values = {
        "hidden_states": packed,
        "encoder_hidden_states": torch.randn(batch, case.text_tokens, config.joint_attention_dim, generator=source),
        "pooled_projections": torch.randn(batch, config.pooled_projection_dim, generator=source),
        "timestep": torch.linspace(0, 1, batch + 2)[1:-1],
        "guidance": torch.ones(batch),
    }
    placed = {key: value.to(place.device, place.dtype) for key, value in values.items()}
    ids = {"img_ids": F.pad(rows_and_columns, (1, 0)).float(), "txt_ids": torch.zeros(case.text_tokens, 3)}
    return placed | {key: value.to(place.device) for key, value in ids.items()}, torch.zeros_like(packed, device=place.device)


if __name__ == "__main__":
    main()
