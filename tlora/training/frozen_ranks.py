"""Keep ranks that no sample of a step used exactly where they are.

A masked rank gets no gradient, but momentum and weight decay still move it: by 3.4 real steps in ten masked ones. The
paper lets that happen; this is the other choice.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tlora.adapter import TLoRALinear
from tlora.inject import Layer


@contextmanager
def freeze_ranks(optimizer: torch.optim.Optimizer, layers: Iterable[Layer], first_frozen: int) -> Iterator[None]:
    """Undo whatever the optimizer does, inside this context, to ranks from `first_frozen` on and to their moments."""
    kept: list[tuple[Tensor, Tensor]] = []
    for layer in layers:
        for parameter, ranks in _rank_axes(layer):
            for tensor in (parameter, *_moments(optimizer, parameter)):
                frozen = tensor.detach().narrow(ranks, first_frozen, tensor.shape[ranks] - first_frozen)
                kept.append((frozen, frozen.clone()))
    yield
    with torch.no_grad():
        for frozen, value in kept:
            frozen.copy_(value)


def _rank_axes(layer: Layer) -> list[tuple[Tensor, int]]:
    """Return each trainable parameter with the axis that counts ranks."""
    if isinstance(layer, TLoRALinear):
        return [(layer.down.weight, 0), (layer.up.weight, 1)]
    return [(layer.q_layer.weight, 0), (layer.p_layer.weight, 1), (layer.lambda_layer, 0)]


def _moments(optimizer: torch.optim.Optimizer, parameter: Tensor) -> list[Tensor]:
    values = optimizer.state[parameter].values() if parameter in optimizer.state else ()
    return [v for v in values if isinstance(v, Tensor) and v.shape == parameter.shape]
