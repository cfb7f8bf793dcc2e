import re
from pathlib import Path

import pytest

from flows.overrides import apply_overrides, check_overrides, parse_overrides
from tasks.running.cli import read_params
from tlora.errors import SettingsError
from tlora.runtime.yaml_text import parse_yaml

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.rnk=32", "override 'train.rnk=32': unknown key 'rnk', did you mean 'rank'?"),
        ("trian.rank=32", "override 'trian.rank=32': no section 'trian', did you mean 'train'?"),
        ("rank=32", "override 'rank=32': must be section.key=value, such as train.rank=32"),
        ("train.rank", "override 'train.rank': must be section.key=value, such as train.rank=32"),
        ("train.rank=[", "override 'train.rank=[': '[' is not valid YAML"),
    ],
)
def test_a_wrong_override_is_one_line(override: str, message: str):
    with pytest.raises(SettingsError) as refusal:
        parse_overrides([override], {"train": {"rank": 16}})
    assert str(refusal.value) == message


def test_only_the_values_change_and_comments_stay(tmp_path: Path):
    before = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(before)
    overrides = ["train.rank=32", "train.target_modules=[to_q, to_v]", "evaluate.seeds=6", "train.mixed_precision='no'"]
    apply_overrides(tmp_path / "params.yaml", overrides)
    after = (tmp_path / "params.yaml").read_text()
    params = parse_yaml(after)
    assert (params["train"]["rank"], params["train"]["target_modules"]) == (32, ["to_q", "to_v"])
    assert (params["evaluate"]["seeds"], params["train"]["mixed_precision"]) == (6, "no")
    pairs = zip(before.splitlines(), after.splitlines(), strict=True)
    changed = [new for old, new in pairs if old != new]
    assert [line.split("#")[0].strip() for line in changed] == [
        "rank: 32",
        "target_modules: [to_q, to_v]",
        "seeds: 6",
    ]
    assert all("#" in line for line in changed)


def test_a_file_laid_out_otherwise_is_overridden_too(tmp_path: Path):
    (tmp_path / "params.yaml").write_text("train: {rank: 16, seed: 0} # short\n")
    apply_overrides(tmp_path / "params.yaml", ["train.rank=32"])
    assert (tmp_path / "params.yaml").read_text() == "train: {rank: 32, seed: 0} # short\n"


@pytest.mark.parametrize(
    ("written", "value"), [("no", "no"), ("1e-8", 1e-8), ("[1, 2.5]", [1, 2.5]), ("'007'", "007"), ("true", True), ("null", None)]
)
def test_a_value_means_in_an_override_what_it_means_in_the_file(written: str, value: object, tmp_path: Path):
    (tmp_path / "params.yaml").write_text("train:\n  x: 1 # one\n")
    apply_overrides(tmp_path / "params.yaml", [f"train.x={written}"])
    assert parse_yaml((tmp_path / "params.yaml").read_text()) == {"train": {"x": value}}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.rank=-3", "overrides: train: need 1 <= min_rank <= rank"),
        ("evaluate.seeds=many", "overrides: evaluate.seeds: must be"),
        ("promote.max_copied=-1", "overrides: promote: max_copied must not be negative"),
        ("train.mixed_precision=half", "overrides: train.mixed_precision: must be one of"),
    ],
)
def test_a_value_that_a_stage_would_refuse_is_refused_before_anything_runs(override: str, said: str):
    with pytest.raises(SettingsError, match=re.escape(said)):
        check_overrides([override], read_params(ROOT / "params.yaml"))
