"""The race replayed on scores that are kept: what it would have drawn, and what it would have recommended."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tlora.evaluation.memorisation import loss_gap, loss_reduction
from tlora.evaluation.race import RaceSettings, due, turns
from tlora.evaluation.recommendation import Candidate, SelectionSettings, lead, recommend
from tlora.metadata.adapter import BASE
from tlora.runtime.atomic_file import write_text

ASKED_FOR = ("similarity_held_out", "prompt_similarity", "diversity", "copied", "loss_train", "loss_held_out")
DIGITS = 5
Runs = Mapping[str, Mapping[str, Candidate]]  # run -> checkpoint -> all of its scores


@dataclass(frozen=True)
class Replay:
    """What became of one run.

    Args:
        full: Whom a full evaluation recommends.
        raced: Whom the race does.
        agrees: Whether they are the same, or no interval tells them apart.
        drawn: Pictures that the race draws, strengths included.
        whole: Pictures that were drawn before there was a race: every cell, and the recommended one's at full strength twice.
        checkpoints: Pictures of each checkpoint.
    """

    full: str | None
    raced: str | None
    agrees: bool
    drawn: int
    whole: int
    checkpoints: Mapping[str, int]

    @property
    def share(self) -> float:
        """The share that is drawn."""
        return self.drawn / self.whole


def keep_scores(file: Path, run: str, scores: Path) -> None:
    """Add a run's scores to a file, as far as the rule asks for them, a run a line.

    Args:
        file: What `read_scores` reads.
        run: Name of the run.
        scores: reports/evaluate/scores.json of a full evaluation.
    """
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    tables = json.loads(scores.read_text(encoding="utf-8"))
    known[run] = {
        name: {score: [[round(cell, DIGITS) for cell in row] for row in own[score]] for score in ASKED_FOR}
        for name, own in sorted(tables.items())
    }
    lines = [f"{json.dumps(name)}: {json.dumps(own, separators=(',', ':'))}" for name, own in sorted(known.items())]
    write_text(file, "{\n" + ",\n".join(lines) + "\n}\n")


def read_scores(file: Path) -> Runs:
    """Read what `keep_scores` wrote."""
    return {name: _candidates(tables) for name, tables in json.loads(file.read_text(encoding="utf-8")).items()}


def replay(full: Mapping[str, Candidate], rule: SelectionSettings, settings: RaceSettings, strengths: int = 3) -> Replay:
    """Race checkpoints whose every score is known.

    Args:
        full: The checkpoints, in the order of their steps.
        rule: How one is chosen.
        settings: Of the race.
        strengths: How many strengths the recommended one is drawn at, full strength among them.
    """
    prompts, seeds = next(iter(full.values())).fidelity.shape
    taken, order = dict.fromkeys(full, 0), turns(prompts, seeds)
    seen = {name: _cut(candidate, []) for name, candidate in full.items()}
    while names := due(seen, rule, settings):
        for name in names:
            taken[name] += 1
            seen[name] = _cut(full[name], order[: taken[name]])
    complete = {name: full[name] for name, count in taken.items() if count == len(order)}
    wanted, found = recommend(full, rule).checkpoint, recommend(complete, rule).checkpoint
    pictures = {name: sum(map(len, order[:count])) for name, count in taken.items()}
    base, again = prompts * seeds, prompts if settings.race else 0
    whole = base * (1 + len(full)) + prompts * strengths
    drawn = base + sum(pictures.values()) + prompts * strengths - again
    return Replay(wanted, found, _agree(full, wanted, found, rule), drawn, whole, pictures)


def _agree(full: Mapping[str, Candidate], one: str | None, other: str | None, rule: SelectionSettings) -> bool:
    if one is None or other is None or one == other:
        return one == other
    interval = lead(full[one], full[other], rule)
    return interval.low <= 0 <= interval.high


def _cut(candidate: Candidate, taken: Sequence[Sequence[tuple[int, int]]]) -> Candidate:
    """Return a checkpoint as it is known after so many turns."""
    nothing = np.full(candidate.fidelity.shape, np.nan)
    for turn in taken:
        for cell in turn:
            nothing[cell] = 0.0
    if not np.isnan(nothing).any():
        return candidate
    fidelity, following = candidate.fidelity + nothing, candidate.following + nothing
    return replace(candidate, fidelity=fidelity, following=following, diversity_ratio=float("nan"), copied=0.0)


def _candidates(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Candidate]:
    scores = {name: {what: np.array(table, dtype=float) for what, table in own.items()} for name, own in tables.items()}
    base = scores.pop(BASE)
    found = {}
    for name, own in scores.items():
        train, held_out = (loss_reduction(own[side], base[side]) for side in ("loss_train", "loss_held_out"))
        found[name] = Candidate(
            step=int(name.rsplit("-", 1)[1]),
            fidelity=own["similarity_held_out"] - base["similarity_held_out"],
            following=own["prompt_similarity"] - base["prompt_similarity"],
            diversity_ratio=float(own["diversity"].mean() / base["diversity"].mean()),
            copied=float(own["copied"].mean()),
            copied_by_base=float(base["copied"].mean()),
            loss_gap=loss_gap(train, held_out),
        )
    return found
