"""Blind votes between champion and challenger, in rounds: a round is about two adapters, and is closed by a person.

Each vote is a tag of its own of the challenger's run, and a line of decisions.jsonl: added, never changed. What they come to is
told only of a round that is closed, so that nobody votes on because he likes, or dislikes, how it stands.
"""

import json
import math
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from tasks.registry.decisions import Decision, now, record
from tasks.registry.names import CHALLENGER, CHAMPION
from tasks.registry.verdict import PromoteSettings, PromotionError
from tasks.registry.versions import ADAPTER_DIGEST, find_alias
from tasks.tracking.store import Store
from tlora.evaluation.intervals import Interval
from tlora.runtime.ranges import require_seed

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

Said = Literal["challenger", "champion", "no difference", "both bad"]
LONGEST = 1000  # characters of a prompt or a name
_TAG = "vote."
_Z = 1.959964  # of a normal distribution, 95 % lie within


@dataclass(frozen=True)
class Vote:
    """What somebody said of two pictures of one prompt and seed.

    Args:
        by: Who.
        prompt: What both show.
        seed: From which noise both were drawn.
        said: Which was better; the voter knew sides, not names.
    """

    by: str
    prompt: str
    seed: int
    said: Said

    def __post_init__(self) -> None:
        if not self.by.strip() or max(len(self.by), len(self.prompt)) > LONGEST:
            raise PromotionError(f"a vote needs a name, and no text of more than {LONGEST} characters")
        if self.said not in get_args(Said):
            raise PromotionError(f"a vote says one of {', '.join(get_args(Said))}, not {self.said!r}")
        try:
            require_seed("seed", self.seed)
        except ValueError as error:
            raise PromotionError(str(error)) from error


@dataclass(frozen=True)
class Round:
    """All votes on a challenger against a champion.

    Args:
        challenger: Number of the version.
        champion: Number of the version.
        votes: In the order in which they were cast.
        closed_by: Who has closed it; empty while it is open.
    """

    challenger: str
    champion: str
    votes: tuple[Vote, ...]
    closed_by: str = ""

    def tally(self) -> str:
        """Return what it came to, in a sentence; of an open round how many votes there are, and no more."""
        if not self.closed_by:
            return f"round open, {len(self.votes)} votes: what they say is told once it is closed"
        counts = {said: sum(vote.said == said for vote in self.votes) for said in get_args(Said)}
        words = ", ".join(f"{said} {count}" for said, count in counts.items())
        share = self.share()
        shown = f"; the challenger is preferred in {share:.2f} of those that prefer one" if share else ""
        return f"round closed by {self.closed_by}, {len(self.votes)} votes: {words}{shown}"

    def share(self) -> Interval | None:
        """Return the challenger's share of the votes that prefer one side, with its 95 % interval; None of none."""
        mine = sum(vote.said == "challenger" for vote in self.votes)
        return share_interval(mine, self.decided) if self.decided else None

    @property
    def decided(self) -> int:
        """How many votes prefer one side."""
        return sum(vote.said in ("challenger", "champion") for vote in self.votes)

    def objection(self, settings: PromoteSettings) -> str:
        """Return why these votes do not let the challenger pass; empty if they do, or none are asked for."""
        if not settings.votes:
            return ""
        against = f"blind votes against version {self.champion}"
        if not self.closed_by:
            return f"the round of {against} is not closed ({len(self.votes)} votes)"
        share = self.share()
        if share is None or self.decided < settings.votes:
            return f"{self.decided} {against} prefer one side, {settings.votes} needed"
        if share.low < settings.votes_share:
            return f"{share:.2f} of {self.decided} {against} prefer it, an interval from {settings.votes_share:.2f} up is needed"
        return ""


def share_interval(wins: int, count: int) -> Interval:
    """Return a share with its 95 % interval.

    Source:
        Wilson (1927), the score interval: unlike the usual one it holds for few votes and for shares near 0 and 1.

    Example:
        >>> f"{share_interval(9, 10):.2f}"
        '0.90 (0.60 to 0.98)'
    """
    share, spread = wins / count, _Z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def open_pair(store: Store, model: str) -> "tuple[ModelVersion, ModelVersion]":
    """Return challenger and champion.

    Raises:
        PromotionError: If there are not two.
    """
    pair = find_alias(store, model, CHALLENGER), find_alias(store, model, CHAMPION)
    if pair[0] is None or pair[1] is None:
        raise PromotionError(f"{model}: a vote needs a champion and a challenger: run the pipeline first")
    if pair[0].version == pair[1].version:
        raise PromotionError(f"{model}: version {pair[0].version} is champion and challenger: train another one to vote on")
    return pair[0], pair[1]


def read_round(store: Store, challenger: "ModelVersion", champion: "ModelVersion") -> Round:
    """Return the round of two versions, as the registry has it."""
    tags = store.client.get_run(str(challenger.run_id)).data.tags
    told = [json.loads(text) for name, text in sorted(tags.items()) if name.startswith(_TAG)]
    mine = [each for each in told if each["against"] == _adapter(champion)]
    closed = next((str(each["by"]) for each in mine if "said" not in each), "")
    votes = [Vote(each["by"], each["prompt"], int(each["seed"]), each["said"]) for each in mine if "said" in each]
    return Round(str(challenger.version), str(champion.version), tuple(votes), closed)


def cast(store: Store, challenger: "ModelVersion", champion: "ModelVersion", vote: Vote) -> None:
    """Add a vote.

    Raises:
        PromotionError: If the round is closed.
    """
    _require_open(read_round(store, challenger, champion))
    told = {"by": vote.by, "prompt": vote.prompt, "seed": str(vote.seed), "said": vote.said}
    _add(store, challenger, champion, "voted", told)


def close_round(store: Store, challenger: "ModelVersion", champion: "ModelVersion", by: str) -> Round:
    """Close a round and return it.

    Raises:
        PromotionError: If it is closed already, or nobody's name is given.
    """
    if not by.strip() or len(by) > LONGEST:
        raise PromotionError("say who closes the round")
    _require_open(read_round(store, challenger, champion))
    _add(store, challenger, champion, "round closed", {"by": by})
    return read_round(store, challenger, champion)


def show_vote(store: Store, decision: Decision, challenger: "ModelVersion") -> None:
    """Write what decisions.jsonl holds of a round into the challenger's run."""
    text = json.dumps(dict(decision.told), ensure_ascii=False)
    store.client.set_tag(str(challenger.run_id), f"{_TAG}{decision.at} {secrets.token_hex(3)}", text)


def _add(
    store: Store,
    challenger: "ModelVersion",
    champion: "ModelVersion",
    event: Literal["voted", "round closed"],
    told: dict[str, str],
) -> None:
    given = {**told, "against": _adapter(champion)}
    decision = Decision(now(), event, challenger.name, str(challenger.version), challenger.tags.get(ADAPTER_DIGEST, ""), given)
    show_vote(store, decision, challenger)  # first: a store that is away leaves no line of a vote that was not counted
    record(decision)


def _adapter(version: "ModelVersion") -> str:
    return version.tags.get(ADAPTER_DIGEST) or f"version {version.version}"


def _require_open(held: Round) -> None:
    if held.closed_by:
        against = f"version {held.challenger} against version {held.champion}"
        raise PromotionError(f"the round of {against} was closed by {held.closed_by}: it takes no more votes")
