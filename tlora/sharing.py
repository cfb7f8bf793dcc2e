"""One down projection for layers that read the same tensor, as q, k and v do: one wider product in place of three thin ones.

Every layer keeps its own parameters, and so its place in files, optimizer and merge: they are put side by side for the length of
a product. The products are kept for the length of a block's call, within which neither weights nor mask can change.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlora.adapter import TLoRALinear

READ_TOGETHER = (("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj"))


class SharedInput:
    """Projects an input down for all of some layers when the first of them meets it.

    Args:
        layers: Of one adapter and one attention, without dropout: each would drop inputs of its own.
    """

    def __init__(self, layers: Sequence[TLoRALinear]) -> None:
        self._downs: list[nn.Linear] = [layer.down for layer in layers]
        for place, layer in enumerate(layers):
            layer.shared, layer.place = self, place
        self.is_open = False
        self._input: Tensor | None = None
        self._ranks: Sequence[Tensor] = ()

    def open(self) -> None:
        """Begin a call of the block."""
        self.is_open = True

    def close(self) -> None:
        """End it, and let go of what it kept."""
        self.is_open, self._input, self._ranks = False, None, ()

    def project(self, place: int, x: Tensor, gate: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the gated ranks (batch, ..., rank) of the layer at this place."""
        if self._input is not x:
            down = torch.cat([down.weight for down in self._downs]).to(x.dtype)
            side_by_side = F.linear(x, down).unflatten(-1, (len(self._downs), -1))
            self._input, self._ranks = x, gate(side_by_side).unbind(-2)
        return self._ranks[place]


def share_inputs(layers: Mapping[str, nn.Module]) -> None:
    """Let the layers of one adapter, by name, project down together where they read the same tensor."""
    for parent in dict.fromkeys(name.rpartition(".")[0] for name in layers):
        for leaves in READ_TOGETHER:
            found = [layers.get(f"{parent}.{leaf}") for leaf in leaves]
            together = [layer for layer in found if isinstance(layer, TLoRALinear) and not layer.cfg.dropout]
            if len(together) > 1:
                SharedInput(together)


def shared_inputs(layers: Sequence[nn.Module]) -> list[SharedInput]:
    """Return what these layers share."""
    return list(dict.fromkeys(layer.shared for layer in layers if isinstance(layer, TLoRALinear) and layer.shared))


def stop_sharing(module: nn.Module) -> None:
    """Let every layer read its own weights alone again, as offloading one layer at a time needs."""
    for layer in module.modules():
        if isinstance(layer, TLoRALinear):
            layer.shared = None
