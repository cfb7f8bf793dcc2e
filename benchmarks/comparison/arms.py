"""The methods that are compared; all else, from targets to learning rate, is the same for all of them."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from tlora.metadata.config import TLoRAConfig
from tlora.schedule import RankSchedule
from tlora.training.settings import PreserveSettings

RANK = 16


@dataclass(frozen=True)
class ReversedSchedule(RankSchedule):
    """T-LoRA upside down: all ranks in pure noise, few in clean pictures. A control for the direction of the schedule."""

    def active_rank(self, timestep: Float[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Return the rank that T-LoRA has at the mirrored timestep."""
        return super().active_rank(self.max_timestep - timestep)


@dataclass(frozen=True)
class ReversedConfig(TLoRAConfig):
    """An adapter that is trained and drawn with the reversed mask."""

    def schedule(self, max_timestep: float = 1000.0) -> RankSchedule:
        """Return the reversed schedule."""
        return ReversedSchedule(self.rank, self.min_rank, self.alpha_rank_scale, max_timestep)


def _plain(rank: int) -> TLoRAConfig:
    return TLoRAConfig(rank=rank, alpha=rank, min_rank=1, enable_rank_masking=False)


ARMS: dict[str, TLoRAConfig] = {
    "LoRA": _plain(RANK),
    "T-LoRA, R_min 1": TLoRAConfig(rank=RANK, alpha=RANK, min_rank=1),
    "T-LoRA, R_min R/2": TLoRAConfig(rank=RANK, alpha=RANK, min_rank=RANK // 2),
    "LoRA of equal mean rank": _plain(RANK // 2),  # 8, the mean of r(t) for R_min 1 and uniform t
    "reversed mask, R_min 1": ReversedConfig(rank=RANK, alpha=RANK, min_rank=1),
}
CONTROLS = frozenset({"LoRA of equal mean rank", "reversed mask, R_min 1"})  # of the mean rank, and of the schedule's direction
PRESERVED = {f"{name}, preserved": name for name in ("LoRA", "T-LoRA, R_min R/2")}  # the same, but for preservation
ARMS |= {arm: ARMS[name] for arm, name in PRESERVED.items()}


def preservation_of(arm: str) -> PreserveSettings:
    """Return how a method preserves the base's output: at the shipped share and a weight of 1, or not at all."""
    return PreserveSettings(preserve=1.0 if arm in PRESERVED else 0.0)
