"""What an adapter costs when pictures are drawn: a step, a fold, and a whole picture, against the bare base.

The shape is FLUX's with 82 M parameters and 28 adapted attention Linears at rank 16. Contenders: the bare base; ours unmerged;
ours merged, its folds included; PEFT unmerged, which has no mask and runs all ranks at every step.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig
from torch import Tensor, nn

from benchmarks.measure import machine, ratio, take_turns
from tlora.inject import adapter_layers, inject_tlora_into_transformer, tlora_parameters
from tlora.merge import merged_weight, merged_weights
from tlora.metadata.config import TLoRAConfig
from tlora.schedule import RankSchedule

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]


@dataclass(frozen=True)
class Shape:
    """Size of the transformer and of what it is given."""

    width: int
    image_side: int
    text_tokens: int
    steps: int
    rank: int
    dtype: torch.dtype
    device: str


SMOKE = Shape(width=64, image_side=4, text_tokens=8, steps=4, rank=16, dtype=torch.float32, device="cpu")
TEXT_WIDTH, POOLED_WIDTH, CHANNELS = 512, 256, 64


def main(arguments: list[str] | None = None) -> None:
    """Print a table of the four contenders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a tiny shape, to see it run")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--image-side", type=int, default=16, help="image tokens on a side; 16 is 256 pixels")
    parser.add_argument("--width", type=int, default=768, help="of the transformer; 768 has 82 M parameters")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[options.dtype]
    shape = SMOKE if options.smoke else Shape(options.width, options.image_side, 77, options.steps, 16, dtype, device)
    run(shape, rounds=2 if options.smoke else options.rounds)


@torch.no_grad()
def run(shape: Shape, rounds: int) -> None:
    """Time the contenders in turns and print what they took."""
    base, ours, peft = bare(shape), with_adapter(shape), with_peft(shape)
    inputs, masks = inputs_of(shape), masks_of(shape)
    layers = len(adapter_layers(ours))
    size = sum(p.numel() for p in base.parameters()) / 1e6
    print(f"{machine()}; {size:.0f} M parameters, {layers} layers, rank {shape.rank}, {shape.dtype}\n")
    full = masks[-1:]
    steps: dict[str, Callable[[], object]] = {
        "bare base": lambda: forward(base, inputs),
        "ours unmerged": lambda: forward(ours, inputs, full),
        "PEFT unmerged": lambda: forward(peft, inputs),
    }
    table("a step", take_turns(steps, 3 * rounds, warm_up=2))
    into = {name: torch.empty_like(weight_of(layer)) for name, layer in adapter_layers(ours).items()}
    folds = take_turns({"one fold of all layers": lambda: fold_all(ours, shape.rank, into)}, rounds)
    pictures: dict[str, Callable[[], object]] = {
        "bare base": lambda: [forward(base, inputs) for _ in masks],
        "ours unmerged": lambda: [forward(ours, inputs, masks[i : i + 1]) for i in range(len(masks))],
        "ours merged, folds included": lambda: draw_merged(ours, inputs, masks),
        "PEFT unmerged": lambda: [forward(peft, inputs) for _ in masks],
    }
    table(f"a picture of {shape.steps} steps", take_turns(pictures, rounds))
    ranks = len(set(masks.sum(dim=1).tolist()))
    print(f"\none fold: {statistics.median(folds['one fold of all layers']) * 1e3:.1f} ms, {ranks} a picture")


def table(title: str, seconds: dict[str, list[float]]) -> None:
    """Print medians, and medians of the ratios to the bare base."""
    print(f"| {title} | ms | of the bare base |\n|---|---|---|")
    for name in seconds:
        print(f"| {name} | {statistics.median(seconds[name]) * 1e3:.1f} | {ratio(seconds, name, 'bare base'):.3f} |")
    print()


def bare(shape: Shape) -> FluxTransformer2DModel:
    """Return a random FLUX of 2 double and 4 single blocks, which hold 28 attention Linears."""
    torch.manual_seed(0)
    heads = shape.width // 64
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=CHANNELS,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=64,
        num_attention_heads=heads,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=POOLED_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(16, 24, 24),
    )
    return transformer.requires_grad_(False).eval().to(shape.device, shape.dtype)


@torch.no_grad()
def with_adapter(shape: Shape) -> FluxTransformer2DModel:
    """Return the same FLUX with our layers, every weight moved."""
    transformer = bare(shape)
    inject_tlora_into_transformer(transformer, ATTENTION, TLoRAConfig(rank=shape.rank, alpha=shape.rank, min_rank=1))
    for parameter in tlora_parameters(transformer):
        parameter.add_(0.02 * torch.randn_like(parameter))
    return transformer.eval()


def with_peft(shape: Shape) -> FluxTransformer2DModel:
    """Return the same FLUX with PEFT's layers, every weight moved."""
    transformer = bare(shape)
    transformer.add_adapter(LoraConfig(r=shape.rank, lora_alpha=shape.rank, target_modules=ATTENTION, init_lora_weights=False))
    return transformer.eval()


def inputs_of(shape: Shape) -> dict[str, Tensor]:
    """Return one picture's inputs."""
    source = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(shape.image_side), torch.arange(shape.image_side), indexing="ij")
    ids = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float()
    values = {
        "hidden_states": torch.randn(1, shape.image_side**2, CHANNELS, generator=source),
        "encoder_hidden_states": torch.randn(1, shape.text_tokens, TEXT_WIDTH, generator=source),
        "pooled_projections": torch.randn(1, POOLED_WIDTH, generator=source),
        "timestep": torch.tensor([0.5]),
        "guidance": torch.tensor([3.5]),
    }
    placed = {name: value.to(shape.device, shape.dtype) for name, value in values.items()}
    return placed | {"img_ids": ids.to(shape.device), "txt_ids": torch.zeros(shape.text_tokens, 3, device=shape.device)}


def masks_of(shape: Shape) -> Tensor:
    """Return the mask of every step of an unshifted sampler."""
    return RankSchedule(shape.rank, 1).mask(torch.linspace(1000, 1000 / shape.steps, shape.steps)).to(shape.device)


def forward(transformer: nn.Module, inputs: dict[str, Tensor], mask: Tensor | None = None) -> Tensor:
    """Run one step, and wait for it."""
    prediction: Tensor = transformer(
        **inputs, joint_attention_kwargs=None if mask is None else {"sigma_mask": mask}, return_dict=False
    )[0]
    if inputs["hidden_states"].is_cuda:
        torch.cuda.synchronize()
    return prediction


def draw_merged(transformer: nn.Module, inputs: dict[str, Tensor], masks: Tensor) -> None:
    """Run every step with folded weights; folding, checking and putting back are part of it."""
    with merged_weights(transformer, force=True):
        for i in range(len(masks)):
            forward(transformer, inputs, masks[i : i + 1])


def fold_all(transformer: nn.Module, rank: int, into: dict[str, Tensor]) -> None:
    """Fold every layer once."""
    for name, layer in adapter_layers(transformer).items():
        merged_weight(layer, weight_of(layer), torch.arange(layer.cfg.rank) < rank, into=into[name])


def weight_of(layer: nn.Module) -> Tensor:
    """Return the weight that a layer wraps."""
    return layer.get_parameter("base.weight")


if __name__ == "__main__":
    main()
