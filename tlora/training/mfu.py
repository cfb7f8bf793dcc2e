"""How much of what the device can do a training step does: MFU, the share of the matmul rate that is measured here.

Model FLOPs are what the step needs, however it is carried out: the products of the forward, those of the backward to the
activations (the base is frozen: its weights get no gradient), and attention; of the adapter, those of its weights' gradients too.
What gradient checkpointing computes again does not count, so it shows as a lower share.
"""

import functools
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tlora.flux.linears import block_linear
from tlora.inject import adapter_layers, blocks_of

_PROBE_SECONDS = 0.3
_PROBE_SIDE = {"cuda": 8192, "cpu": 1024}


@dataclass(frozen=True)
class StepCost:
    """FLOPs of a forward and a backward, or of a forward alone, by what they grow with.

    Args:
        image: Of each image token.
        text: Of each text token.
        sample: Of each sample, whatever its tokens: modulation.
        pair: Of each pair of tokens, image and text alike: attention.
    """

    image: float
    text: float
    sample: float
    pair: float

    def flops(self, samples: int, image_tokens: int, text_tokens: int) -> float:
        """Return the FLOPs of a micro-step."""
        tokens = image_tokens * self.image + text_tokens * self.text
        return samples * (tokens + self.sample + self.pair * (image_tokens + text_tokens) ** 2)


def step_cost(transformer: nn.Module, *, backward: bool = True) -> StepCost:
    """Count what a FLUX transformer multiplies: in training its adapters included, without backward those of the base alone."""
    cost = {"image": 0.0, "text": 0.0, "sample": 0.0}
    adapters = adapter_layers(transformer)
    for name, module in transformer.named_modules():
        if name in adapters or not hasattr(module, "in_features"):
            continue
        passes = _passes(name, module) if backward else _is_of_base(module)
        flops = 2.0 * int(module.in_features) * int(module.out_features) * passes
        for stream in _streams(name):
            cost[stream] += flops
    config: Any = transformer.config
    width = int(config.num_attention_heads * config.attention_head_dim)
    return StepCost(**cost, pair=(12.0 if backward else 4.0) * width * len(list(blocks_of(transformer))))  # 8 in backward


def device_name(device: torch.device) -> str:
    """Return what a pace that was measured on the device holds for: the GPU's name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@functools.cache
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the FLOP/s of a large square product, the best of about a third of a second; once for each process."""
    side = _PROBE_SIDE.get(device.type, _PROBE_SIDE["cpu"])
    source = torch.Generator(device).manual_seed(0)
    square = torch.randn(side, side, generator=source, device=device).to(dtype)
    _seconds(square)  # the first one also starts threads and loads kernels
    best, started = _seconds(square), time.perf_counter()
    while time.perf_counter() - started < _PROBE_SECONDS:
        best = min(best, _seconds(square))
    return 2.0 * side**3 / best


def _seconds(square: Tensor) -> float:
    started = time.perf_counter()
    square @ square
    if square.is_cuda:
        torch.cuda.synchronize(square.device)
    return time.perf_counter() - started


def _is_of_base(module: nn.Module) -> bool:
    return not any(parameter.requires_grad for parameter in module.parameters(recurse=False))


def _passes(name: str, module: nn.Module) -> int:
    """Return how often a Linear's product is taken: forward, to the input, and to its own weight if that learns."""
    if not _is_of_base(module):
        return 3
    return 2 if _streams(name) != ["sample"] and (name == "proj_out" or block_linear(name) is not None) else 1


def _streams(name: str) -> list[str]:
    """Return what the rows of a Linear's input are."""
    linear = block_linear(name)
    if linear is None:
        return {"x_embedder": ["image"], "proj_out": ["image"], "context_embedder": ["text"]}.get(name, ["sample"])
    if linear.is_modulation:
        return ["sample"]
    return ["image", "text"] if linear.stream == "all" else [linear.stream]
