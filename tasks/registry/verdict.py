"""What promotion asks of a challenger, and what came of it: settings and verdicts, without the store that they are about."""

from dataclasses import dataclass
from typing import Literal

from tlora.errors import TloraError

MOST_MINUTES = 1_000_000  # that somebody is waited for: two years


class PromotionError(TloraError):
    """There is nothing to promote or to roll back to."""


@dataclass(frozen=True)
class PromoteSettings:
    """Section `promote`: how much worse than the champion a challenger may be, and whether a person is asked.

    Args:
        max_loss_similarity_held_out: Of mean similarity to held-out pictures.
        max_loss_prompt_following: Of mean prompt following over the base.
        max_loss_diversity_ratio: Of diversity across seeds, as a share of the base's.
        max_copied: Largest share of pictures that copy a training picture, whatever the champion's.
        max_lost_prompts: Most prompts that it has lost, where that was measured.
        max_drift: How far prompts without the trigger word may have moved, where that was measured.
        licence: `commercial`: no version is promoted that a licence of base, data or adapter does not let be used so.
        approval: Whether a person has to agree.
        approval_minutes: How long that is waited for; then it is a refusal.
        votes: How many blind votes that prefer one side are asked for, at the least; 0 asks for none.
        votes_share: Where the 95 % interval of the share that prefers the challenger must begin, at the least.
    """

    max_loss_similarity_held_out: float = 0.02
    max_loss_prompt_following: float = 0.02
    max_loss_diversity_ratio: float = 0.1
    max_copied: float = 0.25
    max_lost_prompts: int = 0
    max_drift: float = 0.5
    licence: Literal["any", "commercial"] = "any"
    approval: bool = False
    approval_minutes: float = 1440.0
    votes: int = 0
    votes_share: float = 0.5

    def __post_init__(self) -> None:
        for name in (*(f"max_loss_{metric}" for metric in self.margins), *(f"max_{metric}" for metric in self.limits)):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not self.approval_minutes > 0:
            raise ValueError(f"approval_minutes must be above 0, got {self.approval_minutes}")
        if self.votes < 0:
            raise ValueError(f"votes must not be negative, got {self.votes}")
        if not 0 <= self.votes_share < 1:
            raise ValueError(f"votes_share must be in [0, 1), got {self.votes_share}")
        if self.approval_minutes > MOST_MINUTES:
            raise ValueError(f"approval_minutes must be at most {MOST_MINUTES}, got {self.approval_minutes}")

    @property
    def margins(self) -> dict[str, float]:
        """How much of a metric may be lost against the champion."""
        return {
            "similarity_held_out": self.max_loss_similarity_held_out,
            "prompt_following": self.max_loss_prompt_following,
            "diversity_ratio": self.max_loss_diversity_ratio,
        }

    @property
    def limits(self) -> dict[str, float]:
        """What a metric may not exceed, whatever the champion's."""
        return {"copied": self.max_copied, "lost_prompts": self.max_lost_prompts, "drift": self.max_drift}


@dataclass(frozen=True)
class Check:
    """One metric of a challenger beside the champion's, and what it needed.

    Args:
        metric: Its name.
        challenger: Mean, or None where it was not measured.
        champion: The champion's.
        needed: Such as `at least 0.480`.
        passed: MLflow's verdict.
    """

    metric: str
    challenger: float | None
    champion: float | None
    needed: str
    passed: bool

    @property
    def shown(self) -> str:
        """The challenger's value, for a sentence."""
        return _number(self.challenger)


@dataclass(frozen=True)
class Verdict:
    """What the gate says.

    Args:
        model: Name of the registered model.
        challenger: Number of the version that wants to be champion.
        champion: Number of the one that is, or empty.
        checks: Metric by metric; empty where nothing was compared.
        objection: Why not, in a sentence; empty if nothing speaks against it.
        remedy: The command that helps, if one does.
    """

    model: str
    challenger: str
    champion: str
    checks: tuple[Check, ...] = ()
    objection: str = ""
    remedy: str = ""

    def to_markdown(self) -> str:
        """Return the page that explains it."""
        against = f"champion, version {self.champion}" if self.champion else "no champion of the same base"
        passes = "Nothing speaks against it." if not self.objection else f"**Refused: {self.objection}.**"
        parts = [f"# {self.model}, version {self.challenger}, against {against}", passes]
        if self.remedy:
            parts.append(f"```sh\n{self.remedy}\n```")
        if self.checks:
            lines = ["| metric | challenger | champion | needed | |", "|---|---|---|---|---|"]
            lines += [
                f"| {check.metric} | {check.shown} | {_number(check.champion)} | {check.needed} |"
                f" {'passed' if check.passed else '**failed**'} |"
                for check in self.checks
            ]
            parts.append("\n".join(lines))
        return "\n\n".join(parts) + "\n"


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"
