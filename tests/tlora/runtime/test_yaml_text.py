"""The project reads YAML as DVC does: the two must never mean different values by one file."""

from pathlib import Path

import pytest
from dvc.utils.serialize import parse_yaml as as_dvc_reads

from tlora.runtime.yaml_text import NotYamlError, edit_yaml, parse_yaml, render_yaml

ROOT = Path(__file__).parents[3]
FILES = sorted([*ROOT.glob("*.yaml"), *ROOT.glob("params/*.yaml"), *ROOT.glob("configs/*.yaml"), *ROOT.glob("[a-z]*.dvc")])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_our_files_mean_what_dvc_means_by_them(file: Path) -> None:
    assert parse_yaml(file.read_text()) == as_dvc_reads(file.read_text(), file)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("1e-4", 1e-4),
        ("1E-08", 1e-8),
        ("2.0e-3", 2e-3),
        ("010", 10),
        ("12:30", "12:30"),
        ("1_000", 1000),
        (".inf", float("inf")),
        ("''", ""),
        ("", None),
    ],
)
def test_a_value_is_what_yaml_1_2_says(written: str, value: object) -> None:
    assert parse_yaml(f"a: {written}") == {"a": value} == as_dvc_reads(f"a: {written}", "x")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: b: c", "line 1, column 5: mapping values are not allowed in this context"),
        ("a: 1\na: 2\n", 'line 2, column 1: found duplicate key "a" with value "2" (original value: "1")'),
        ("a: 2026-13-45", "month must be in 1..12"),
    ],
)
def test_what_is_no_yaml_is_one_line_that_says_where(text: str, line: str) -> None:
    with pytest.raises(NotYamlError) as refusal:
        parse_yaml(text)
    assert str(refusal.value) == line


@pytest.mark.parametrize("file", ["params.yaml", "params/flux1-dev.yaml"])
def test_an_edit_without_changes_leaves_every_byte(file: str) -> None:
    text = (ROOT / file).read_text()
    assert edit_yaml(text, {}) == text


def test_a_digest_that_looks_like_a_number_stays_text_for_dvc() -> None:
    digest = "12345678901234567890123456789e12"
    assert as_dvc_reads(render_yaml({"md5": digest}), "x") == {"md5": digest}
