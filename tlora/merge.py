"""Draw with the adapter folded into the weights: as fast as the bare base, and honest about what rounding costs.

Merged weights are a pure function of (pristine weight, adapter, mask, scale): folded from the pristine weight in
float32 and rounded once. Adding the next ranks to what is already merged would round again at every step, and in bfloat16
most entries would differ. The layers' own forward stays the reference; this is an option.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from tlora.errors import MaskError, MergeError
from tlora.inject import Layer, adapter_layers, masks_and_scales

MAX_LOSS = 0.1  # share of the update that rounding may eat


@dataclass(frozen=True)
class RoundingLoss:
    """What rounding to the weights' type eats: ||merged - weight - update|| / ||update|| over all layers, and at which rank."""

    share: float
    rank: int
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"rounding to {str(self.dtype).removeprefix('torch.')} eats {self.share:.1%} of the update at rank {self.rank}"


@contextmanager
def merged_weights(transformer: nn.Module, *, force: bool = False) -> Iterator[RoundingLoss]:
    """Fold the adapter into the weights for as long as the context lasts, at the rank and scale that each call brings.

    Whatever draws needs no change: a hook reads the sigma mask of every call, and folds when its rank or scale is another than
    the last call's. Afterwards the pristine weights are back, bit for bit. It holds a second copy of the wrapped weights.

    Args:
        transformer: A FLUX transformer that carries an adapter, not in training.
        force: Merge even where rounding eats more than a tenth of the update.

    Yields:
        What rounding eats, at the worse of the smallest and the full rank.

    Raises:
        MergeError: If there is no adapter, a wrapped weight is quantised, or rounding eats too much.
        MaskError: From a call whose samples are at different ranks, or which brings no mask where one is needed.
    """
    fold = _Fold(transformer)
    loss = rounding_loss(transformer)
    if loss.share > MAX_LOSS and not force:
        raise MergeError(f"{loss}, more than {MAX_LOSS:.0%}: draw unmerged, use a finer dtype, or force it")
    hook = transformer.register_forward_pre_hook(fold.before_call, with_kwargs=True)
    try:
        for layer in fold.layers.values():
            layer.is_merged = True
        yield loss
    finally:
        hook.remove()
        fold.restore()


@torch.no_grad()
def merged_weight(
    layer: Layer,
    pristine: Float[Tensor, "out in"],
    sigma_mask: Shaped[Tensor, " rank"],
    scale: float = 1.0,
    into: Tensor | None = None,
) -> Float[Tensor, "out in"]:
    """Return pristine + scale * masked update, computed in float32 and rounded once to pristine's type.

    Args:
        layer: Whose update is folded.
        pristine: The weight without it.
        sigma_mask: 1 for each rank that takes part.
        scale: Strength of the adapter.
        into: Where the result is written; a new tensor of this size costs more than the arithmetic.
    """
    up, down = layer.factors_under(sigma_mask)
    into = torch.empty_like(pristine) if into is None else into
    if pristine.dtype == torch.float32:
        return torch.addmm(pristine, up.float(), down.float(), alpha=scale, out=into)
    return into.copy_(torch.addmm(pristine.float(), up.float(), down.float(), alpha=scale))


@torch.no_grad()
def rounding_loss(transformer: nn.Module) -> RoundingLoss:
    """Return what merging would lose to rounding, at the worse end of the rank schedule."""
    layers = adapter_layers(transformer).values()
    cfg = next(iter(layers)).cfg
    ranks = (cfg.min_rank, cfg.rank) if cfg.enable_rank_masking else (cfg.rank,)
    dtype = _weight(next(iter(layers))).dtype
    return max((RoundingLoss(_share_lost(list(layers), rank), rank, dtype) for rank in ranks), key=lambda loss: loss.share)


def _share_lost(layers: list[Layer], rank: int) -> float:
    lost = whole = 0.0
    for layer in layers:
        pristine, sigma_mask = _weight(layer), torch.arange(layer.cfg.rank) < rank
        up, down = layer.factors_under(sigma_mask)
        update = up.float() @ down.float()
        kept = merged_weight(layer, pristine, sigma_mask).float() - pristine.float()
        lost += float((kept - update).square().sum())
        whole += float(update.square().sum())
    return (lost / whole) ** 0.5 if whole else 0.0


def _weight(layer: Layer) -> Tensor:
    weight = layer.base.weight
    if not isinstance(weight, Tensor):
        raise MergeError("a base without a plain weight cannot be merged: draw unmerged")
    return weight


class _Fold:
    """The pristine weights, and what is folded at the moment."""

    def __init__(self, transformer: nn.Module) -> None:
        self.layers = adapter_layers(transformer)
        if not self.layers:
            raise MergeError("nothing to merge: the transformer carries no adapter")
        if len({layer.slot for layer in self.layers.values()}) > 1:
            raise MergeError("one adapter can be merged, and the transformer carries several: draw unmerged")
        for name, layer in self.layers.items():
            if not _weight(layer).is_floating_point():
                raise MergeError(f"{name} is quantised, and merging would round it again: draw unmerged")
        self.pristine = {name: _weight(layer).data for name, layer in self.layers.items()}
        self.merged = {name: torch.empty_like(weight) for name, weight in self.pristine.items()}
        self.folded: tuple[tuple[float, ...], float] | None = None

    def before_call(self, transformer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        (sigma_mask,), (scale,) = masks_and_scales(transformer, args, kwargs)
        wanted = (self._one_row(sigma_mask), scale)
        if wanted != self.folded:
            row = torch.tensor(wanted[0])
            for name, layer in self.layers.items():
                merged_weight(layer, self.pristine[name], row, scale, into=self.merged[name])
                _weight(layer).data = self.merged[name]
            self.folded = wanted

    def restore(self) -> None:
        for name, layer in self.layers.items():
            _weight(layer).data = self.pristine[name]
            layer.is_merged = False

    def _one_row(self, sigma_mask: Tensor | None) -> tuple[float, ...]:
        cfg = next(iter(self.layers.values())).cfg
        if not cfg.enable_rank_masking:
            return (1.0,) * cfg.rank
        if sigma_mask is None:
            raise MaskError("rank masking is on but no sigma mask came with this call")
        row, *others = set(map(tuple, sigma_mask.tolist()))
        if others or len(row) != cfg.rank:
            raise MaskError(
                "merged weights have one rank, and this call's samples have several: draw them one by one, or unmerged"
            )
        return row
