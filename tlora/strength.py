"""How much an adapter changes the weights it wraps: the answer to "does it do anything?"."""

from collections import defaultdict

import torch
from torch import Tensor, nn

from tlora.inject import Layer, adapter_layers
from tlora.quantise import plain_weight


def relative_change(transformer: nn.Module) -> dict[str, float]:
    """Return ||update|| / ||weight|| at full rank and scale 1, the mean over the layers of each kind.

    A kind is the end of a layer's name, such as `attn.to_q`. Layers whose base was quantised elsewhere are left out: their
    weight cannot be measured as it stands.
    """
    changes: dict[str, list[float]] = defaultdict(list)
    for name, layer in adapter_layers(transformer).items():
        weight = plain_weight(layer.base)
        if weight is not None:
            changes[_kind(name)].append(float(update_norm(layer) / weight.norm()))
    return {kind: sum(values) / len(values) for kind, values in sorted(changes.items())}


def update_norm(layer: Layer) -> Tensor:
    """Return the Frobenius norm of up @ down without forming the product."""
    up, down = (factor.double() for factor in layer.factors())  # ortho factors all but cancel
    return torch.sqrt(((up.T @ up) * (down @ down.T)).sum().clamp(min=0))


def _kind(name: str) -> str:
    """Drop the block list and the block's number: `transformer_blocks.0.attn.to_q` -> `attn.to_q`."""
    return name.split(".", 2)[2]
