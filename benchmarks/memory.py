"""Is the memory estimate right? Two training steps of an 82 M FLUX in a process of their own, estimated and measured.

On a CPU the measure is the peak of the resident memory above what the process held before the model was loaded, with glibc
told to give freed memory back at once: left alone it keeps up to 1.6 times as much, by chance. On a GPU it is what torch
allocated at most. Of a quantised base, training alone is measured: the CPU, unlike a GPU, has held it whole before.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.measure import machine
from tlora.flux.spec import FluxShape, Quantisation

SHAPE = FluxShape(double_blocks=4, single_blocks=10, width=512, head_width=64)  # 81 million weights
SMALL = FluxShape(double_blocks=1, single_blocks=2, width=256, head_width=64)
ATTENTION = ("to_q", "to_k", "to_v")
TEXT_TOKENS = 77
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    batch: int
    side: int
    checkpointing: bool | int
    targets: tuple[str, ...] = ATTENTION
    quantisation: Quantisation = "none"


CASES = (
    Case(1, 128, True),
    Case(1, 256, False),
    Case(2, 256, True),
    Case(4, 256, True),
    Case(4, 256, 2),
    Case(4, 256, 4),
    Case(4, 256, False),
    Case(4, 256, False, (*ATTENTION, "to_out.0", "proj_mlp", "proj_out", "ff.net.0.proj", "ff.net.2")),
    Case(8, 384, True),
    Case(8, 384, False),
    Case(4, 256, True, quantisation="int8"),
    Case(4, 256, False, quantisation="int8"),
    Case(4, 256, True, quantisation="nf4"),
    Case(4, 256, False, quantisation="nf4"),
)
SMOKE = (Case(1, 128, 2), Case(2, 128, False, quantisation="int8"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print estimate and measure of every case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a smaller model and two cases: it runs, its errors mean little")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.case:
        case = json.loads(options.case[1])
        print(measure(Path(options.case[0]), Case(**{**case, "targets": tuple(case["targets"])})))
        return
    shape, cases = (SMALL, SMOKE) if options.smoke else (SHAPE, CASES)
    print(f"{machine()}, {shape.parameters / 1e6:.0f} million weights in float32, rank 16\n")
    print("| batch | pixels | checkpointing | targets | weights | estimated | measured | error |\n|" + " --- |" * 8)
    with tempfile.TemporaryDirectory() as folder:
        _write_model(shape, Path(folder))
        for case in cases:
            answer = _measure_apart(Path(folder), case)
            estimate = _estimate(shape, case)
            words = {0: "off", 1: "on"}.get(int(case.checkpointing), f"every {case.checkpointing}")
            row = f"| {case.batch} | {case.side} | {words} | {len(case.targets)} | {case.quantisation} |"
            print(f"{row} {estimate / 1e6:.0f} MB | {answer / 1e6:.0f} MB | {estimate / answer - 1:+.0%} |", flush=True)


def measure(model: Path, case: Case) -> int:
    """Train for two steps here and return the peak in bytes above what was held before."""
    import torch
    from accelerate import Accelerator

    from tlora.flux.cached import LatentItem
    from tlora.flux.model import load_transformer
    from tlora.flux.spec import ModelSpec
    from tlora.inject import inject_tlora_into_transformer
    from tlora.training.loop import Training
    from tlora.training.peak_memory import held_bytes, peak_bytes, restart_peak

    spec = ModelSpec(str(model), dtype="float32", quantisation=case.quantisation)
    settings, side = _settings(case), case.side // SHAPE.pixels_per_latent
    embeds = torch.randn(case.batch, TEXT_TOKENS, SHAPE.text_width), torch.randn(case.batch, SHAPE.pooled_width)
    accelerator = Accelerator()
    restart_peak(accelerator.device)
    before = held_bytes(accelerator.device)
    transformer = load_transformer(spec)
    inject_tlora_into_transformer(transformer, case.targets, settings.adapter)
    training = Training(transformer, settings, accelerator)
    view = LatentItem("a", "", torch.randn(16, side, side), torch.ones(16, side, side))
    for _ in training.steps([view], [(side, side)], lambda _captions: embeds):
        pass
    loading = [peak_bytes(accelerator.device)] if case.quantisation == "none" else []
    return max(*loading, *training.memory.peaks.values()) - before


def _measure_apart(model: Path, case: Case) -> int:
    command = [sys.executable, "-m", "benchmarks.memory", "--case", str(model), json.dumps(asdict(case))]
    answer = subprocess.run(command, env=os.environ | _ALLOCATOR, stdout=subprocess.PIPE, text=True, check=True)
    return int(answer.stdout.split()[-1])


def _settings(case: Case):  # type: ignore[no-untyped-def]  # torch is loaded only where it is needed
    from tlora.flux.noise import NoiseSettings
    from tlora.metadata.config import TLoRAConfig
    from tlora.training.optimizer import OptimizerSettings
    from tlora.training.settings import LoopSettings, TrainingSettings

    loop = LoopSettings(max_train_steps=2, train_batch_size=case.batch, gradient_checkpointing=case.checkpointing)
    return TrainingSettings(TLoRAConfig(min_rank=1), NoiseSettings(), OptimizerSettings(learning_rate=1e-4), loop)


def _estimate(shape: FluxShape, case: Case) -> float:
    from tlora.training.memory_estimate import Workload, estimate_memory

    load = Workload((case.side // shape.pixels_per_latent // 2) ** 2, TEXT_TOKENS, "float32", "no", case.quantisation)
    return estimate_memory(shape, _settings(case), case.targets, load).total


def _write_model(shape: FluxShape, folder: Path) -> None:
    from diffusers import FluxTransformer2DModel

    turns = shape.head_width // 8
    FluxTransformer2DModel(
        patch_size=1,
        in_channels=shape.channels,
        num_layers=shape.double_blocks,
        num_single_layers=shape.single_blocks,
        attention_head_dim=shape.head_width,
        num_attention_heads=shape.width // shape.head_width,
        joint_attention_dim=shape.text_width,
        pooled_projection_dim=shape.pooled_width,
        guidance_embeds=shape.guidance,
        axes_dims_rope=(2 * turns, 3 * turns, 3 * turns),
    ).save_pretrained(folder / "transformer")
    (folder / "model_index.json").write_text("{}")


if __name__ == "__main__":
    main()
