from pathlib import Path

import pytest

from tasks.registry.promotion import judge, note_refusal, promote_version, roll_back
from tasks.registry.verdict import PromoteSettings, PromotionError
from tasks.registry.versions import aliases_of
from tasks.tracking.store import Store, open_store
from tests.tasks.filled_registry import NAME, add_version
from tlora.runtime.settings import parse_settings

SETTINGS = PromoteSettings()


@pytest.fixture
def store(store_file: Path) -> Store:
    return open_store()


def test_a_challenger_within_the_margins_passes_and_every_metric_is_shown(store: Store):
    add_version(store, "champion")
    add_version(store, "challenger", {"similarity_held_out": 0.49, "copied": 0.25})
    verdict = judge(store, NAME, SETTINGS)
    assert (verdict.champion, verdict.challenger, verdict.objection) == ("1", "2", "")
    page = verdict.to_markdown()
    assert "| similarity_held_out | 0.490 | 0.500 | at least 0.480 | passed |" in page
    assert "| copied | 0.250 | 0.000 | at most 0.250 | passed |" in page


@pytest.mark.parametrize(
    ("metric", "value", "objection"),
    [
        ("similarity_held_out", 0.479, "similarity_held_out is 0.479, at least 0.480 needed"),
        ("prompt_following", -0.03, "prompt_following is -0.030, at least -0.020 needed"),
        ("diversity_ratio", 0.6, "diversity_ratio is 0.600, at least 0.650 needed"),
        ("copied", 0.26, "copied is 0.260, at most 0.250 needed"),
        ("lost_prompts", 1, "lost_prompts is 1.000, at most 0.000 needed"),
        ("drift", 0.6, "drift is 0.600, at most 0.500 needed"),
    ],
)
def test_one_metric_beyond_its_margin_refuses(store: Store, metric: str, value: float, objection: str):
    add_version(store, "champion")
    add_version(store, "challenger", {metric: value})
    verdict = judge(store, NAME, SETTINGS)
    assert verdict.objection == objection
    assert [check.metric for check in verdict.checks if not check.passed] == [metric]
    assert f"**Refused: {objection}.**" in verdict.to_markdown()


@pytest.mark.parametrize("what", ["prompts", "seeds", "evaluator"])
def test_a_champion_that_was_measured_otherwise_has_to_be_measured_anew(store: Store, what: str):
    add_version(store, "champion", tags={f"evaluation.{what}": "another"})
    add_version(store, "challenger", {"similarity_held_out": 0.9})
    verdict = judge(store, NAME, SETTINGS)
    assert (
        verdict.objection
        == f"champion and challenger were measured with different {what}: measure the champion anew, then promote"
    )
    assert verdict.remedy == "prefect deployment run measure/champion"
    assert verdict.checks == ()


def test_nothing_is_compared_across_bases(store: Store):
    add_version(store, "champion", {"similarity_held_out": 0.9}, {"base_revision": "base-0"})
    add_version(store, "challenger")
    verdict = judge(store, NAME, SETTINGS)
    assert (verdict.objection, verdict.champion, verdict.checks) == ("", "", ())


def test_what_the_evaluation_does_not_recommend_is_refused_also_without_a_champion(store: Store):
    add_version(store, "challenger", tags={"recommended": "false"})
    assert judge(store, NAME, SETTINGS).objection == "the evaluation recommends no checkpoint of version 1's run"


def test_promotion_moves_both_aliases_and_leaves_who_when_whence_why_and_the_metrics(store: Store):
    add_version(store, "champion")
    add_version(store, "challenger")
    promote_version(store, judge(store, NAME, SETTINGS), by="ann", run="amber-fox 1234", why="it looks better")
    assert aliases_of(store, NAME) == {"champion": "2", "previous": "1", "challenger": "2"}
    tags = store.client.get_model_version(NAME, "2").tags
    assert (tags["promotion.event"], tags["promotion.by"], tags["promotion.run"]) == ("promoted", "ann", "amber-fox 1234")
    assert tags["promotion.metrics"] == "similarity_held_out 0.500, prompt_following 0.000, diversity_ratio 0.750, copied 0.000"
    assert history(store) == [
        "version 2 promoted; by: ann; run: amber-fox 1234; why: it looks better; metrics: " + tags["promotion.metrics"]
    ]
    assert judge(store, NAME, SETTINGS).objection == "version 2 is champion already"


def test_rolling_back_restores_the_one_before_once_and_keeps_the_history(store: Store):
    add_version(store, "champion")
    add_version(store, "challenger")
    promote_version(store, judge(store, NAME, SETTINGS), by="the gate", run="r1", why="passed the gate")
    assert roll_back(store, NAME, by="ann", run="r2", why="grey bricks") == ("1", "2")
    assert aliases_of(store, NAME) == {"champion": "1", "challenger": "2"}
    assert [line.split(";")[0] for line in history(store)] == [
        "version 2 promoted",
        "version 2 rolled back",
        "version 1 restored",
    ]
    with pytest.raises(PromotionError, match=f"{NAME}: no version is called previous: there is nothing to roll back to"):
        roll_back(store, NAME, by="ann", run="r3", why="")
    assert aliases_of(store, NAME)["champion"] == "1"


def test_what_was_rolled_back_or_replaced_is_champion_again_only_when_asked_for(store: Store):
    for _ in range(2):
        add_version(store, "challenger")
        promote_version(store, judge(store, NAME, SETTINGS), by="ann", run="amber-fox", why="better")
    again = 'make promote VERSION=1 AGAIN=1 WHY="..."'
    replaced = judge(store, NAME, SETTINGS, "1")
    assert (replaced.objection, replaced.remedy) == ("version 1 was champion before, until version 2 took its place", again)
    roll_back(store, NAME, by="bob", run="calm-owl", why="grey joints")
    for _ in range(2):  # a refusal does not take the place of what was decided before
        rolled_back = judge(store, NAME, SETTINGS)
        assert rolled_back.objection == "version 2 was rolled back (grey joints)"
        note_refusal(store, rolled_back, by="the gate", run="red-hen", why=rolled_back.objection)
    assert judge(store, NAME, SETTINGS, again=True).objection == ""


def test_a_challenger_of_a_branch_names_the_measurement_that_is_like_its_own(store: Store):
    add_version(store, "champion")
    add_version(store, "challenger", tags={"evaluation.seeds": "1,2", "branch": "run/e52c"})
    assert judge(store, NAME, SETTINGS).remedy == "prefect deployment run measure/champion -p revision=run/e52c"


def test_a_refusal_is_noted_on_the_version(store: Store):
    add_version(store, "challenger", tags={"recommended": "false"})
    verdict = judge(store, NAME, SETTINGS)
    note_refusal(store, verdict, by="the gate", run="r1", why=verdict.objection)
    tags = store.client.get_model_version(NAME, "1").tags
    assert (tags["promotion.event"], tags["promotion.why"]) == ("refused", verdict.objection)
    assert aliases_of(store, NAME) == {"challenger": "1"}


def test_what_is_not_there_is_said(store: Store):
    with pytest.raises(PromotionError, match=f"{NAME}: no version is called challenger: run the pipeline first"):
        judge(store, NAME, SETTINGS)
    add_version(store, "challenger")
    with pytest.raises(PromotionError, match=f"{NAME}: there is no version '7'"):
        judge(store, NAME, SETTINGS, "7")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_copied": -0.1}, r"params\.yaml: promote: max_copied must not be negative, got -0\.1"),
        ({"approval_minutes": 0}, r"params\.yaml: promote: approval_minutes must be above 0, got 0"),
    ],
)
def test_settings_out_of_range_are_named(change: dict[str, float], message: str):
    with pytest.raises(Exception, match=message):
        parse_settings(PromoteSettings, change, "params.yaml: promote", complete=False)


def history(store: Store) -> list[str]:
    tags = store.client.get_registered_model(NAME).tags
    return [value for name, value in sorted(tags.items()) if name.startswith("history.")]


COMMERCIAL = PromoteSettings(licence="commercial")
FREE = {"licence.base": "apache-2.0", "licence.data": "cc0-1.0", "licence.adapter": "apache-2.0"}


def test_where_a_licence_for_commerce_is_asked_for_no_other_is_promoted_or_rolled_back_to(store: Store):
    add_version(store, "previous", tags=FREE | {"licence.base": "flux-1-dev-non-commercial-license"})
    add_version(store, "champion", tags=FREE)
    add_version(store, "challenger", tags=FREE | {"base": "black-forest-labs/FLUX.1-dev"})
    assert judge(store, NAME, SETTINGS).objection == ""
    name = "flux-1-dev-non-commercial-license"
    words = f"the licence of its base ({name}) allows no commercial use, and promote.licence is commercial"
    assert judge(store, NAME, COMMERCIAL).objection == f"version 3: {words}"
    with pytest.raises(
        PromotionError, match=r"the champion stays, nothing is rolled back to: version 1: the licence of its base"
    ):
        roll_back(store, NAME, by="ann", run="r1", why="grey", settings=COMMERCIAL)
    assert aliases_of(store, NAME) == {"previous": "1", "champion": "2", "challenger": "3"}
    add_version(store, "challenger", tags={name: text for name, text in FREE.items() if name != "licence.data"})
    assert "under which licence its data is, nobody said" in judge(store, NAME, COMMERCIAL).objection
    add_version(store, "challenger", tags=FREE)
    assert judge(store, NAME, COMMERCIAL).objection == ""
