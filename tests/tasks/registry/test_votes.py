"""Blind votes are added and never changed, tell nothing while the round is open, and the gate asks for them if it is told to."""

import math
from pathlib import Path

import pytest

from tasks.registry.decisions import read_decisions
from tasks.registry.promotion import CLOSE, judge
from tasks.registry.verdict import PromoteSettings, PromotionError
from tasks.registry.versions import ADAPTER_DIGEST
from tasks.registry.votes import Said, Vote, cast, close_round, open_pair, read_round, share_interval
from tasks.tracking.store import Store, open_store
from tests.tasks.filled_registry import NAME, add_version

ASKED = PromoteSettings(votes=4)


@pytest.fixture
def store(store_file: Path) -> Store:
    store = open_store()
    add_version(store, "champion", tags={ADAPTER_DIGEST: "one"})
    add_version(store, "challenger", tags={ADAPTER_DIGEST: "two"})
    return store


def vote(store: Store, *said: Said) -> None:
    for number, word in enumerate(said):
        cast(store, *open_pair(store, NAME), Vote("ann", "a matbrk wall", number, word))


def test_what_is_said_stays_unsaid_until_the_round_is_closed_and_then_takes_no_more(store: Store):
    vote(store, "challenger", "challenger", "champion", "no difference", "both bad")
    held = read_round(store, *open_pair(store, NAME))
    assert held.tally() == "round open, 5 votes: what they say is told once it is closed"
    closed = close_round(store, *open_pair(store, NAME), "bob")
    assert closed.tally() == (
        "round closed by bob, 5 votes: challenger 2, champion 1, no difference 1, both bad 1;"
        " the challenger is preferred in 0.67 (0.21 to 0.94) of those that prefer one"
    )
    with pytest.raises(PromotionError, match="was closed by bob: it takes no more votes"):
        vote(store, "champion")
    with pytest.raises(PromotionError, match="was closed by bob"):
        close_round(store, *open_pair(store, NAME), "eve")
    assert [decision.event for decision in read_decisions()] == ["voted"] * 5 + ["round closed"]
    assert dict(read_decisions()[0].told) == {
        "by": "ann",
        "prompt": "a matbrk wall",
        "seed": "0",
        "said": "challenger",
        "against": "one",
    }


def test_the_gate_says_what_is_missing(store: Store):
    assert judge(store, NAME, PromoteSettings()).objection == ""
    vote(store, "challenger", "challenger", "challenger")
    verdict = judge(store, NAME, ASKED)
    assert (verdict.objection, verdict.remedy) == ("the round of blind votes against version 1 is not closed (3 votes)", CLOSE)
    close_round(store, *open_pair(store, NAME), "bob")
    verdict = judge(store, NAME, ASKED)
    assert (verdict.objection, verdict.remedy) == ("3 blind votes against version 1 prefer one side, 4 needed", "")
    assert judge(store, NAME, PromoteSettings(votes=3, votes_share=0.4)).objection == ""
    verdict = judge(store, NAME, PromoteSettings(votes=3))
    assert verdict.objection.startswith(
        "1.00 (0.44 to 1.00) of 3 blind votes against version 1 prefer it, an interval from 0.50 up"
    )


def test_another_champion_is_another_round(store: Store):
    vote(store, "challenger")
    add_version(store, "champion", tags={ADAPTER_DIGEST: "three"})
    assert read_round(store, *open_pair(store, NAME)).votes == ()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("", "a wall", 0, "champion"), "needs a name"),
        (("ann", "w" * 1001, 0, "champion"), "no text of more than 1000 characters"),
        (("ann", "a wall", 0, "left"), "says one of challenger, champion, no difference, both bad, not 'left'"),
        (("ann", "a wall", -1, "champion"), "seed must be in"),
    ],
)
def test_what_is_no_vote_is_refused(given: tuple[str, str, int, Said], message: str):
    with pytest.raises(PromotionError, match=message):
        Vote(*given)


def test_a_vote_needs_two(store: Store):
    store.client.set_registered_model_alias(NAME, "champion", "2")
    with pytest.raises(PromotionError, match="version 2 is champion and challenger"):
        open_pair(store, NAME)
    store.client.delete_registered_model_alias(NAME, "challenger")
    with pytest.raises(PromotionError, match="needs a champion and a challenger"):
        open_pair(store, NAME)


@pytest.mark.parametrize(("wins", "count"), [(0, 10), (5, 10), (10, 10), (70, 100)])
def test_each_end_of_the_interval_is_the_share_from_which_what_was_seen_is_196_deviations_away(wins: int, count: int):
    interval = share_interval(wins, count)
    for end in {interval.low, interval.high} - {0.0, 1.0}:
        assert abs(wins / count - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / count), abs=1e-6)


def test_a_setting_beyond_its_range_is_refused():
    with pytest.raises(ValueError, match="votes must not be negative, got -1"):
        PromoteSettings(votes=-1)
    with pytest.raises(ValueError, match=r"votes_share must be in \[0, 1\), got 1"):
        PromoteSettings(votes_share=1)
