"""The two T-LoRA layers.

A layer never computes a mask. Whoever calls its block brings one, as data (`inject.py`), and `arm` hands it over for the
length of that call; a layer with rank masking on that is asked to run without one refuses.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from tlora.errors import InjectionError, MaskError
from tlora.metadata.config import TLoRAConfig
from tlora.singular_vectors import singular_factors

__all__ = ["OrthoTLoRALinear", "SharedInput", "TLoRAConfig", "TLoRALinear", "build_layer", "device_of", "features_of"]


class _MaskedLayer(nn.Module):
    """A frozen Linear plus a masked low-rank update; the two layers differ only in `_update`."""

    def __init__(self, base: nn.Module, cfg: TLoRAConfig) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.cfg = cfg
        self.dropout = nn.Dropout(cfg.dropout)
        self.suffixes: tuple[str, ...] = ()  # those that chose its Linear, set where it is injected
        self.slot = 0  # which of several adapters it belongs to, and so which mask and scale are its own
        self.is_merged = False  # while `merge.py` holds the update in the base's weight
        self._sigma_mask: Tensor | None = None
        self._scale = 1.0

    @property
    def in_features(self) -> int:
        """Width of the input, so that a second adapter can wrap what a first one has wrapped."""
        return int(self.base.in_features)  # type: ignore[arg-type]

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return int(self.base.out_features)  # type: ignore[arg-type]

    def arm(self, sigma_mask: Float[Tensor, "batch rank"] | None, scale: float) -> None:
        """Hand over the mask and the adapter scale of the call that is about to run; (None, 1.0) takes them back."""
        self._sigma_mask, self._scale = sigma_mask, scale

    def forward(self, x: Tensor) -> Tensor:
        """Return base(x) + scale * alpha / rank * update(x) for x of shape (batch, ..., in_features).

        Raises:
            MaskError: If rank masking is on and no mask was handed over, or its shape does not fit the input.
        """
        if self.is_merged:
            return self.base(x)
        return self._updated(self.base(x), self.dropout(x))

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return up (out, n) and down (n, in), detached, whose product is the whole update at scale 1, alpha / rank included."""
        raise NotImplementedError

    def factors_under(self, sigma_mask: Shaped[Tensor, " rank"]) -> tuple[Tensor, Tensor]:
        """Return what a mask leaves of `factors`."""
        up, down = self.factors()
        kept = sigma_mask.to(up.device).bool().repeat(up.shape[1] // self.cfg.rank)  # ortho factors are learnt beside initial
        return up[:, kept], down[kept]

    def _updated(self, out: Tensor, x: Tensor) -> Tensor:
        """Return the base's output plus the update for this input; without gradients, in the place of the former."""
        update = self._update(x)
        if torch.is_grad_enabled() or out.dtype != update.dtype:
            return out + update
        return out.add_(update)  # the same bits; a third tensor of this size would cost more than the update's arithmetic

    def _update(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _gate(self, hidden: Tensor) -> Tensor:
        """Apply mask and strength where the tensor is smallest: at `rank` columns."""
        if self.cfg.enable_rank_masking:
            hidden = hidden * _fit(self._sigma_mask, hidden)
        strength = self._scale * self.cfg.alpha / self.cfg.rank
        return hidden if strength == 1.0 else hidden * strength


class SharedInput:
    """One down projection for layers that read the same tensor, as q, k and v do: one wider product in place of three thin ones.

    Every layer keeps its own parameters, and so its place in files, optimizer and merge: they are put side by side for the
    length of a product. The products are kept for the length of a block's call, within which neither weights nor mask can change.

    Args:
        downs: Of the layers of one adapter and one attention, without dropout: each would drop inputs of its own.
    """

    def __init__(self, downs: Sequence[nn.Linear]) -> None:
        self._downs = list(downs)
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


class TLoRALinear(_MaskedLayer):
    """base(x) + scale * alpha/rank * up(mask * down(x)) around a frozen Linear, quantised or not.

    Args:
        base: The Linear to wrap; frozen here.
        cfg: Shape and behaviour.
        generator: Source of the initial `down`; `up` starts at zero, so the layer starts as its base.
        initialise: Off leaves `down` at zero too, for values that are about to be loaded.

    Raises:
        InjectionError: If the rank is larger than the Linear can hold.

    Source:
        LoRA (arXiv:2106.09685); masking: T-LoRA (arXiv:2507.05964); initial spread: the authors' FLUX code.
    """

    def __init__(
        self, base: nn.Module, cfg: TLoRAConfig, generator: torch.Generator | None = None, *, initialise: bool = True
    ) -> None:
        super().__init__(base, cfg)
        self.shared: SharedInput | None = None  # set by `share_inputs`, with this layer's place among those that share
        self.place = 0
        inside, outside = features_of(base, cfg)
        self.down = nn.Linear(inside, cfg.rank, bias=False)
        self.up = nn.Linear(cfg.rank, outside, bias=False)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.up.weight)
        if initialise:
            nn.init.normal_(self.down.weight, 0.0, 1 / cfg.rank, generator=generator)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return up and down; n is the rank."""
        return self.up.weight.detach() * (self.cfg.alpha / self.cfg.rank), self.down.weight.detach()

    def _updated(self, out: Tensor, x: Tensor) -> Tensor:
        ranks = self._ranks(x)
        if out.dtype != ranks.dtype:
            return out + self._raised(ranks)
        rows, up = out.reshape(-1, out.shape[-1]), self.up.weight.to(ranks.dtype).t()
        thin = ranks.reshape(-1, ranks.shape[-1])  # one product that adds: the update itself is never written
        return (torch.addmm(rows, thin, up) if torch.is_grad_enabled() else rows.addmm_(thin, up)).view(out.shape)

    def _update(self, x: Tensor) -> Tensor:
        return self._raised(self._ranks(x))

    def _ranks(self, x: Tensor) -> Tensor:
        if self.shared is not None and self.shared.is_open:
            return self.shared.project(self.place, x, self._gate)
        return self._gate(F.linear(x, self.down.weight.to(x.dtype)))

    def _raised(self, ranks: Tensor) -> Tensor:
        return F.linear(ranks, self.up.weight.to(ranks.dtype))


class OrthoTLoRALinear(_MaskedLayer):
    """p(mask * lambda * q(x)) minus the same of their frozen initial copies, so that the update starts at exactly 0.

    Args:
        base: The Linear to wrap; frozen here.
        cfg: Shape and behaviour; `sig_type` and `svd_source` choose the singular vectors.
        generator: Source of the random matrix where `svd_source` is `random`, and of the search for principal vectors.
        initialise: Off spares the SVD and leaves every factor at zero, for values that are about to be loaded.

    Raises:
        InjectionError: If the rank is larger than the Linear can hold, or `svd_source` is `weight` and the base was quantised
            elsewhere.

    Source:
        T-LoRA (arXiv:2507.05964), orthogonal initialisation; the paper's is `svd_source="random", sig_type="last"`. The
        authors take every start from a full SVD. Here principal vectors of a large weight are approximate; they are
        orthonormal all the same, and as the frozen copy is taken away, the update starts at 0 whatever they are.
    """

    base_q: Tensor
    base_p: Tensor
    base_lambda: Tensor

    def __init__(
        self, base: nn.Module, cfg: TLoRAConfig, generator: torch.Generator | None = None, *, initialise: bool = True
    ) -> None:
        super().__init__(base, cfg)
        inside, outside = features_of(base, cfg)
        q, p, strengths = torch.zeros(cfg.rank, inside), torch.zeros(outside, cfg.rank), torch.zeros(cfg.rank)
        if initialise:
            q, p, strengths = singular_factors(base, cfg, (outside, inside), generator)
        self.q_layer = nn.Linear(inside, cfg.rank, bias=False)
        self.p_layer = nn.Linear(cfg.rank, outside, bias=False)
        self.q_layer.weight = nn.Parameter(q)
        self.p_layer.weight = nn.Parameter(p)
        self.lambda_layer = nn.Parameter(strengths)
        self.register_buffer("base_q", q.clone())
        self.register_buffer("base_p", p.clone())
        self.register_buffer("base_lambda", strengths.clone())

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return up and down; n is twice the rank.

        What was learnt less the initial product, p q - p0 q0, is written (p - p0) q + p0 (q - q0): exactly 0 for a fresh layer.
        """
        q, initial = self.q_layer.weight.detach(), self.base_p * self.base_lambda
        up = torch.cat([self.p_layer.weight.detach() * self.lambda_layer.detach() - initial, initial], dim=1)
        return up * (self.cfg.alpha / self.cfg.rank), torch.cat([q, q - self.base_q])

    def _update(self, x: Tensor) -> Tensor:
        learnt = self._factors(x, self.q_layer.weight, self.lambda_layer, self.p_layer.weight)
        return learnt - self._factors(x, self.base_q, self.base_lambda, self.base_p)

    def _factors(self, x: Tensor, q: Tensor, strengths: Tensor, p: Tensor) -> Tensor:
        hidden = F.linear(x, q.to(x.dtype)) * strengths.to(x.dtype)
        return F.linear(self._gate(hidden), p.to(x.dtype))


def build_layer(
    base: nn.Module, cfg: TLoRAConfig, generator: torch.Generator | None = None, *, initialise: bool = True
) -> TLoRALinear | OrthoTLoRALinear:
    """Wrap a Linear in the layer that `cfg.trainer_type` names."""
    return (TLoRALinear if cfg.trainer_type == "lora" else OrthoTLoRALinear)(base, cfg, generator, initialise=initialise)


def device_of(module: nn.Module) -> torch.device:
    """Return where a Linear's weight is; a quantised one may hold it in a buffer."""
    return next(itertools.chain(module.parameters(), module.buffers())).device


def _fit(sigma_mask: Tensor | None, hidden: Tensor) -> Tensor:
    if sigma_mask is None:
        raise MaskError(
            "rank masking is on but no sigma mask came with this call: pass joint_attention_kwargs={'sigma_mask': mask}"
            " to the transformer, or set transformer._tlora_sigma_mask"
        )
    batch, rank = hidden.shape[0], hidden.shape[-1]
    if sigma_mask.ndim != 2 or sigma_mask.shape[0] not in (1, batch) or sigma_mask.shape[1] != rank:
        raise MaskError(f"need a sigma mask of shape ({batch}, {rank}) or (1, {rank}), got {tuple(sigma_mask.shape)}")
    return sigma_mask.to(hidden.dtype).reshape(sigma_mask.shape[0], *[1] * (hidden.ndim - 2), rank)


def features_of(base: nn.Module, cfg: TLoRAConfig) -> tuple[int, int]:
    """Return the widths of a Linear's input and output.

    Raises:
        InjectionError: If the rank is larger than either.
    """
    inside, outside = int(base.in_features), int(base.out_features)  # type: ignore[arg-type]
    most = min(inside, outside)
    if cfg.rank > most:
        raise InjectionError(f"rank {cfg.rank} is larger than a layer of {inside} x {outside} can hold: use at most {most}")
    return inside, outside
