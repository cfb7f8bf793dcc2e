"""Which checkpoints need no more pictures: a race, looked at after every turn.

A turn is a picture of every prompt, each prompt at a seed of its own, the same for all checkpoints: neither an easy prompt nor a
lucky seed weighs on one turn alone. After each, a checkpoint is dropped that a full evaluation would not put above the leading
one by more than noise: by more than the rule's own interval, within which the rule calls two checkpoints equal. What is drawn
of both is compared cell by cell; what is not drawn yet is what the interval is about.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tlora.evaluation.intervals import bootstrap_interval
from tlora.evaluation.recommendation import Candidate, SelectionSettings, certain_objections, objections


@dataclass(frozen=True)
class RaceSettings:
    """Whether and how checkpoints are raced.

    Args:
        race: Drop checkpoints on the way; off, every picture of every checkpoint is drawn.
        race_confidence: How sure it is, over all looks and rivals together, that the best is not dropped for one that it would
            in the end be ahead of by more than noise.
    """

    race: bool = True
    race_confidence: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.race_confidence < 1:
            raise ValueError(f"race_confidence must be between 0 and 1, got {self.race_confidence}")


@dataclass(frozen=True)
class Standing:
    """The race as it stands.

    Args:
        leader: Who leads among those that are not out; None where none is left.
        out: Who is out by a rule, whatever is still drawn, and why.
        dropped: Who is left behind by the leader, and why; should the leader turn out to be out, they may be back.
    """

    leader: str | None
    out: Mapping[str, str]
    dropped: Mapping[str, str]


def turns(prompts: int, seeds: int) -> list[list[tuple[int, int]]]:
    """Return what is drawn of a checkpoint in each turn, as (prompt, seed): all cells once, and a look after every turn.

    The first round is halved: whoever is far behind shows it in half of the prompts.
    """
    rounds = [[(prompt, (prompt + number) % seeds) for prompt in range(prompts)] for number in range(seeds)]
    return [part for part in (rounds[0][::2], rounds[0][1::2], *rounds[1:]) if part]


def due(candidates: Mapping[str, Candidate], rule: SelectionSettings, settings: RaceSettings) -> list[str]:
    """Return whose turn it is: of those that are still in the race, those with the fewest pictures; none at its end.

    Where no checkpoint is left, the last one is drawn to the end all the same: it is what is shown and registered.

    Args:
        candidates: As `judge` takes them, in the order of their steps.
        rule: As there.
        settings: Likewise.
    """
    waiting = {name: int(_is_drawn(c).sum()) for name, c in candidates.items() if not _is_complete(c)}
    if settings.race:
        standing = judge(candidates, rule, settings)
        last = [*candidates][-1:] if len(standing.out) == len(candidates) else []
        waiting = {
            name: count for name, count in waiting.items() if name in last or name not in {*standing.out, *standing.dropped}
        }
    return [name for name, count in waiting.items() if count == min(waiting.values())]


def judge(candidates: Mapping[str, Candidate], rule: SelectionSettings, settings: RaceSettings) -> Standing:
    """Look at the race.

    Args:
        candidates: Checkpoints, in any order; cells that were not drawn are NaN, and so is all that hangs on them.
        rule: How a checkpoint is chosen in the end.
        settings: With which confidence one is dropped.
    """
    out = {name: "; ".join(reasons) for name, c in candidates.items() if (reasons := _objections(c, rule))}
    left = {name: c for name, c in candidates.items() if name not in out}
    drawn = {name: _is_drawn(c).sum() for name, c in left.items()}
    front = {name: c for name, c in left.items() if drawn[name] and drawn[name] == max(drawn.values())}
    if not front:
        return Standing(None, out, {})
    leader = max(front, key=lambda name: (_score_cells(front[name], _is_drawn(front[name]), rule).mean(), -front[name].step))
    error = (1 - settings.race_confidence) / max(1, len(candidates) - 1)
    rivals = {name: c for name, c in left.items() if name != leader and not _is_complete(c) and drawn[name]}
    found = {name: _behind(candidate, leader, front[leader], rule, error) for name, candidate in rivals.items()}
    dropped = {name: reason for name, reason in found.items() if reason}
    return Standing(leader, out, dropped)


def _behind(candidate: Candidate, name: str, leader: Candidate, rule: SelectionSettings, error: float) -> str | None:
    """Return why a checkpoint needs no more pictures beside the leader, or None where it may still be ahead by more than noise.

    Args:
        candidate: The checkpoint.
        name: Of the leader.
        leader: Likewise.
        rule: What the score is.
        error: That all looks at these two may have together; with every rival a checkpoint shares its error evenly.

    Source:
        Racing with Bonferroni's bound over rivals and looks: Maron and Moore, The racing algorithm (Artificial Intelligence
        Review 11, 1997), sections 3 and 4, the latter for paired differences, which are taken for normal. Cells of a finite
        table, drawn without replacement: Cochran, Sampling Techniques (1977), section 2.6. Error spent unevenly over looks: Lan
        and DeMets, Discrete sequential boundaries for clinical trials (Biometrika 70, 1983).
    """
    both = _is_drawn(candidate) & _is_drawn(leader)
    ahead, count = _score_cells(candidate, both, rule) - _score_cells(leader, both, rule), int(both.sum())
    if count < 2:
        return None
    spread = _student(error * _share(count, both.shape), count - 1) * ahead.std(ddof=1) * np.sqrt((1 - count / both.size) / count)
    most, noise = float(ahead.mean() + spread), _noise(ahead, both.shape)
    if most > noise:
        return None
    behind = f"{-ahead.mean():.3f} behind" if ahead.mean() < 0 else f"{ahead.mean():.3f} ahead of"
    return f"{behind} {name} after {count} of {both.size} pictures, at most {most:+.3f} in the end: not ahead by more than noise"


def _share(count: int, shape: tuple[int, ...]) -> float:
    """Return which share of the error a look may spend: in proportion to the pictures still to come, which it can save."""
    drawn = np.cumsum([len(turn) for turn in turns(*shape)])
    return float((drawn[-1] - count) / (drawn[-1] - drawn).sum())


def _noise(differences: NDArray[np.float64], shape: tuple[int, ...]) -> float:
    """Return how far ahead is still noise to the rule: its interval of a whole table of such differences, from the mean down."""
    interval = bootstrap_interval(np.resize(differences, shape))
    return interval.mean - interval.low


def _score_cells(candidate: Candidate, cells: NDArray[np.bool_], rule: SelectionSettings) -> NDArray[np.float64]:
    """Return the score, cell by cell: gained following buys nothing, so it is left out where the mean of the cells is a gain."""
    fidelity, following = candidate.fidelity[cells], candidate.following[cells]
    return fidelity + rule.prompt_weight * following if following.mean() < 0 else fidelity


def _student(level: float, freedom: int) -> float:
    """Return the upper quantile of Student's t."""
    from scipy.special import stdtrit  # a fifth of a second that a full evaluation does not need

    return float(stdtrit(freedom, 1 - level))


def _objections(candidate: Candidate, rule: SelectionSettings) -> list[str]:
    return objections(candidate, rule) if _is_complete(candidate) else certain_objections(candidate, rule)


def _is_complete(candidate: Candidate) -> bool:
    return bool(_is_drawn(candidate).all())


def _is_drawn(candidate: Candidate) -> NDArray[np.bool_]:
    return ~np.isnan(candidate.fidelity)
