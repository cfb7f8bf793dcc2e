"""The settings that shape an adapter; without torch, for those who read only what a file says of itself."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tlora.ranks import require_ranks
from tlora.runtime.settings import require_choices

if TYPE_CHECKING:
    from tlora.schedule import RankSchedule

SigType = Literal["principal", "last", "middle"]
ORIGINS = {"weight": "each weight", "random": "a random matrix"}


@dataclass(frozen=True)
class TLoRAConfig:
    """Shape and behaviour of an adapter.

    Args:
        rank: R_max, ranks of each layer.
        alpha: LoRA numerator; the update is scaled by alpha / rank.
        dropout: Share of inputs dropped before the down projection in training, 0 to below 1.
        min_rank: R_min, ranks that take part in pure noise.
        alpha_rank_scale: Exponent of the rank formula.
        trainer_type: `lora`, or `ortho_lora` (factors from an SVD).
        sig_type: Which singular vectors `ortho_lora` starts from; the paper's are `last`.
        enable_rank_masking: Off makes it a plain LoRA.
        svd_source: SVD of the base `weight`, or of a `random` matrix (the paper's).

    Raises:
        ValueError: If a value is out of range, naming it.
    """

    rank: int = 16
    alpha: float = 16.0
    dropout: float = 0.0
    min_rank: int = 8
    alpha_rank_scale: float = 1.0
    trainer_type: Literal["lora", "ortho_lora"] = "lora"
    sig_type: SigType = "principal"
    enable_rank_masking: bool = True
    svd_source: Literal["weight", "random"] = "weight"

    def __post_init__(self) -> None:
        require_ranks(self.rank, self.min_rank, self.alpha_rank_scale)
        if not (0 < self.alpha < math.inf):
            raise ValueError(f"alpha must be positive, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        require_choices(self)

    @property
    def starting_line(self) -> str:
        """Say where `ortho_lora` starts from, and what of it is approximate or slow; empty for `lora`."""
        if self.trainer_type == "lora":
            return ""
        way = "full SVD of each layer, about n^3: minutes for all of FLUX.1"
        if self.sig_type == "principal":
            way = "approximate where a layer is large (randomised block Krylov)"
        if self.svd_source == "random":
            way = "drawn by its factors, exact in distribution"
        return f"starts from the {self.sig_type} singular vectors of {ORIGINS[self.svd_source]}: {way}"

    def schedule(self, max_timestep: float = 1000.0) -> "RankSchedule":
        """Return the rank schedule of this adapter."""
        from tlora.schedule import RankSchedule  # takes torch with it

        return RankSchedule(self.rank, self.min_rank, self.alpha_rank_scale, max_timestep)
