"""The field of checkpoints: drawn turn by turn, those that are left behind dropped, until one is sure to be recommended.

The base and whichever is recommended are always drawn to the end; so the gate, promotion and every comparison have every number.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.evaluate.drawing import Column, Rows
from tasks.evaluate.kept import Cell
from tasks.evaluate.measurement import Measurer
from tasks.evaluate.scoring import Scores
from tasks.evaluate.summary import Losses, Measured, candidate_of, compare, summarise
from tlora.evaluation.intervals import Cells
from tlora.evaluation.race import RaceSettings, due, judge, turns
from tlora.evaluation.recommendation import Candidate, SelectionSettings, recommend
from tlora.metadata.adapter import BASE, find_weights, read_metadata

SIMILARITY = "similarity_held_out"  # without it there is nothing to race by
OTHER_SEEDS = 2  # of each prompt without the trigger word: what is looked for there is in most pictures or in none


@dataclass(frozen=True)
class Extent:
    """What is drawn at the most.

    Args:
        prompts: What is drawn.
        others: Prompts without the trigger word, drawn of the base and of whichever is to be recommended.
        seeds: The seeds that each is drawn with.
        strength: At which every checkpoint is drawn.
        scales: Strengths at which the recommended one is drawn once more, at the first seed.
        full_frame: How many prompts, from the first, show the material over the whole frame.
    """

    prompts: Sequence[str]
    others: Sequence[str]
    seeds: Sequence[int]
    strength: float
    scales: Sequence[float]
    full_frame: int

    @property
    def turns(self) -> list[list[Cell]]:
        """What is drawn of a checkpoint in each turn."""
        return [[(prompt, self.seeds[seed]) for prompt, seed in turn] for turn in turns(len(self.prompts), len(self.seeds))]

    @property
    def first_seed(self) -> list[Cell]:
        """Every prompt at the first seed."""
        return [(prompt, self.seeds[0]) for prompt in range(len(self.prompts))]

    @property
    def other_prompts(self) -> range:
        """The numbers of the other prompts: they come after those that are raced on."""
        return range(len(self.prompts), len(self.prompts) + len(self.others))

    @property
    def other_cells(self) -> list[Cell]:
        """What is drawn to see whether other things are kept."""
        return [(prompt, seed) for prompt in self.other_prompts for seed in self.seeds[:OTHER_SEEDS]]


@dataclass(frozen=True)
class Found:
    """What an evaluation came to.

    Args:
        drawn: Pictures of the base and of every checkpoint that can be measured.
        at_scales: Those at several strengths.
        others: Pictures without the trigger word, of the base and of those that were looked at for it.
        measured: Scores of the first.
        summary: What follows from them.
    """

    drawn: Mapping[str, Rows]
    at_scales: Mapping[str, Rows]
    others: Mapping[str, Rows]
    measured: Mapping[str, Measured]
    summary: dict[str, Any]


class Field:
    """The base and the checkpoints.

    Args:
        measurer: Draws and measures them.
        checkpoints: Their folders, in the order of their steps.
        extent: What is drawn at the most.
        rule: How one is chosen.
        racing: Whether all are drawn to the end.
    """

    def __init__(
        self,
        measurer: Measurer,
        checkpoints: Mapping[str, Path],
        extent: Extent,
        rule: SelectionSettings,
        racing: RaceSettings,
    ) -> None:
        self._measurer, self._extent, self._rule, self._racing = measurer, extent, rule, racing
        self._columns = {BASE: Column(BASE, None, extent.strength)}
        self._columns |= {name: Column(name, folder, extent.strength) for name, folder in checkpoints.items()}
        self._turns: dict[str, int] = {}
        self._losses: dict[str, Losses] = {}
        self._moved: dict[str, Cells] = {}

    def run(self, failures: dict[str, str]) -> Found:
        """Draw what has to be drawn, and measure it.

        Args:
            failures: Where the line goes of each checkpoint that cannot be measured.
        """
        self._losses = self._measurer.measure_losses([*self._columns.values()], failures)
        self._turns = dict.fromkeys(self._losses, 0)
        base = [(self._columns[BASE], turn) for turn in self._extent.turns]
        self._measurer.draw(base, "evaluate: the base")
        self._turns[BASE] = len(base)
        shown = self._race()
        measured = {name: self._measured(name) for name in self._losses}
        incomplete = self._left_behind()
        summary = summarise(measured, self._extent.prompts, self._rule, incomplete)
        at_scales, entries = self._at_scales(shown, measured[BASE])
        summary["scales"] = {"checkpoint": shown, "seed": self._extent.seeds[0], "entries": entries}
        summary["race"] = self._told(shown, incomplete)
        drawn, others = ({name: self._rows(name) for name in measured}, {name: self._other_rows(name) for name in self._moved})
        return Found(drawn, at_scales, others, measured, summary)

    def _race(self) -> str:
        """Draw turn by turn until it is known who is shown: the recommended one, or the last; other things it keeps included.

        Whoever is to be recommended and has changed other things too much is out then, and the race goes on without it.
        """
        while True:
            while names := self._due():
                self._draw_turn(names)
            shown = self._recommended() or list(self._losses)[-1]
            wanted = [shown] if self._racing.race else list(self._losses)
            if not self._look_at_others([name for name in wanted if name not in self._moved]):
                return shown

    def _recommended(self) -> str | None:
        if not self._can_race() or len(self._losses) == 1:
            return None
        whole = {name: c for name, c in self._candidates().items() if self._turns[name] == len(self._extent.turns)}
        return recommend(whole, self._rule).checkpoint if whole else None

    def _look_at_others(self, names: Sequence[str]) -> bool:
        """Draw prompts without the trigger word with the base and with these; return whether anything was measured."""
        cells = self._extent.other_cells
        if not cells or not names or not self._can_race():
            return False
        wanted = [name for name in dict.fromkeys([BASE, *names]) if name not in self._moved]
        self._measurer.draw([(self._columns[name], cells) for name in wanted], "evaluate: prompts without the trigger word")
        found = {name: self._measurer.moved(name, BASE, cells) for name in wanted}
        self._moved |= {name: moved for name, moved in found.items() if moved is not None}
        return True

    def _due(self) -> list[str]:
        """Return whose turn it is."""
        names = [name for name in self._losses if name != BASE]
        if self._can_race():
            return due(self._candidates(), self._rule, self._racing)
        return [name for name in names if self._turns[name] < len(self._extent.turns)]

    def _can_race(self) -> bool:
        return SIMILARITY in self._scores(BASE)

    def _candidates(self) -> dict[str, Candidate]:
        seen = {
            name: Measured(self._step(name), self._scores(name), losses, self._moved.get(name))
            for name, losses in self._losses.items()
        }
        return {name: candidate_of(own, seen[BASE], self._extent.prompts) for name, own in seen.items() if name != BASE}

    def _draw_turn(self, names: Sequence[str]) -> None:
        wanted = [(self._columns[name], self._extent.turns[self._turns[name]]) for name in names]
        who = f"{len(names)} checkpoints" if len(names) > 1 else names[0]
        self._measurer.draw(wanted, f"evaluate: turn {self._turns[names[0]] + 1} of {len(self._extent.turns)}, {who}")
        for name in names:
            self._turns[name] += 1

    def _left_behind(self) -> dict[str, str]:
        """Return who was not drawn to the end, and why."""
        short = [name for name, count in self._turns.items() if count < len(self._extent.turns)]
        standing = judge(self._candidates(), self._rule, self._racing) if short else None
        reasons = {**standing.out, **standing.dropped} if standing else {}
        return {name: reasons[name] for name in short}

    def _measured(self, name: str) -> Measured:
        textures = self._measurer.textures(self._rows(name)[: self._extent.full_frame]) if self._turns[name] else {}
        return Measured(self._step(name), {**self._scores(name), **textures}, self._losses[name], self._moved.get(name))

    def _at_scales(self, shown: str, base: Measured) -> tuple[dict[str, Rows], list[dict[str, Any]]]:
        """Draw a checkpoint at several strengths and one seed; return the pictures, the base's first, and differences to it."""
        if shown == BASE:
            return {BASE: [row[:1] for row in self._rows(BASE)]}, []
        extent, folder = self._extent, self._columns[shown].adapter
        columns = {
            scale: self._columns[shown] if scale == extent.strength else Column(f"{shown} x {scale:g}", folder, scale)
            for scale in extent.scales
        }
        new = [(column, extent.first_seed) for column in columns.values() if column.name != shown]
        self._measurer.draw(new, f"evaluate: {shown} at other strengths")
        at_first_seed = {name: cells[:, :1] for name, cells in base.scores.items()}
        rows, entries = {BASE: [row[:1] for row in self._rows(BASE)]}, []
        for scale, column in columns.items():
            rows[f"{shown} x {scale:g}"] = self._measurer.rows(column.name, range(len(extent.prompts)), extent.seeds[:1])
            scores = self._measurer.scores(column.name, len(extent.prompts), extent.seeds[:1])
            entries.append({"scale": scale, **compare(scores, at_first_seed)})
        return rows, entries

    def _told(self, shown: str, incomplete: Mapping[str, str]) -> dict[str, Any]:
        """Return how the race went."""
        extent = self._extent
        more = [scale for scale in extent.scales if scale != extent.strength] if shown != BASE else []
        counts = {name: sum(map(len, extent.turns[:count])) for name, count in self._turns.items()}
        others = len(extent.other_cells)
        whole = len(extent.prompts) * (len(extent.seeds) * len(counts) + len(more)) + others * len(counts)
        return {
            **dataclasses.asdict(self._racing),
            "pictures": sum(counts.values()) + len(extent.prompts) * len(more) + others * len(self._moved),
            "of": whole,
            "checkpoints": {name: {"pictures": count, "dropped": incomplete.get(name, "")} for name, count in counts.items()},
        }

    def _scores(self, name: str) -> Scores:
        return self._measurer.scores(name, len(self._extent.prompts), self._extent.seeds)

    def _rows(self, name: str) -> Rows:
        return self._measurer.rows(name, range(len(self._extent.prompts)), self._extent.seeds)

    def _other_rows(self, name: str) -> Rows:
        return self._measurer.rows(name, self._extent.other_prompts, self._extent.seeds[:OTHER_SEEDS])

    def _step(self, name: str) -> int:
        folder = self._columns[name].adapter
        return read_metadata(find_weights(folder)).step if folder else 0
