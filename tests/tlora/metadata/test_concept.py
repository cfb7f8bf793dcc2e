from pathlib import Path

import pytest

from tlora.errors import SettingsError
from tlora.metadata.concept import OTHER_PROMPTS, Concept, HeldOutShare, read_concept

CONCEPT = "name: brick\ntrigger: matbrk\nprompts: [a matbrk wall]\n"


@pytest.mark.parametrize(
    ("held_out", "read"),
    [
        ("", HeldOutShare(0.2, 0)),
        ("held_out: {fraction: 0.25}", HeldOutShare(0.25, 0)),
        ("held_out: [a.png, b.png]", ("a.png", "b.png")),
    ],
)
def test_a_concept_names_what_is_held_out_or_a_share(tmp_path: Path, held_out: str, read: object) -> None:
    (tmp_path / "concept.yaml").write_text(CONCEPT + held_out)
    assert read_concept(tmp_path / "concept.yaml") == Concept("brick", "matbrk", read, ("a matbrk wall",))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (CONCEPT + "promts: [a]", "unknown key 'promts', did you mean 'prompts'"),
        (CONCEPT + "held_out: {fracton: 0.2}", "held_out: unknown key 'fracton', did you mean 'fraction'"),
        (CONCEPT + "held_out: {fraction: 0}", "need 0 < fraction <= 0.5"),
        (CONCEPT + "held_out: []", "held_out: names no picture"),
        (CONCEPT + "held_out: 3", "held_out: must be a list"),
        (CONCEPT.replace("brick", "My Brick"), "lower-case letters, digits and hyphens"),
        (CONCEPT.replace("matbrk\n", "' matbrk'\n"), "trigger: must be a word"),
        (CONCEPT.replace("[a matbrk wall]", "[]"), "prompts: give at least one"),
        (CONCEPT.replace("[a matbrk wall]", "[a, a]"), "given twice"),
        (CONCEPT + "other_prompts: [a matbrk ball]", "other_prompts: 'a matbrk ball' holds the trigger word"),
        (CONCEPT + "class_word: a matbrk", "class_word: must be words without spaces around them or the trigger"),
        (CONCEPT + "class_word: [a]", "class_word: must be text"),
        (CONCEPT + "other_prompts: ['']", "other_prompts: must be prompts"),
        (CONCEPT + "other_prompts: [a, a]", "other_prompts: one of them is given twice"),
        (CONCEPT + "other_prompts: 3", "other_prompts: must be a list"),
        ("name: brick\n", "missing key 'trigger'"),
        ("[]", "must be a mapping"),
        ("a: b: c", "not valid YAML"),
    ],
)
def test_a_wrong_concept_is_refused_in_one_line(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "concept.yaml").write_text(text)
    with pytest.raises(SettingsError, match=reason) as refused:
        read_concept(tmp_path / "concept.yaml")
    assert "\n" not in str(refused.value)


def test_other_prompts_have_defaults_and_may_be_none(tmp_path: Path) -> None:
    for line, read in (("", OTHER_PROMPTS), ("other_prompts: [a wooden ball]", ("a wooden ball",)), ("other_prompts: []", ())):
        (tmp_path / "concept.yaml").write_text(CONCEPT + line)
        assert read_concept(tmp_path / "concept.yaml").other_prompts == read


@pytest.mark.parametrize(
    ("class_word", "caption", "kept"),
    [
        ("brick", "a matbrk wall", "a brick wall"),
        ("", "a matbrk brick wall", "a brick wall"),
        ("", "a matbrk old wall", "an old wall"),
        ("asphalt", "a photo of a matbrk floor", "a photo of an asphalt floor"),
        ("brick", "a wall of matbrk", "a wall of brick"),
        ("", "matbrk", ""),
        ("brick", "a wall of matbrks", "a wall of matbrks"),
        ("brick", "matbrk, seen from matbrk", "brick, seen from brick"),
        ("brick", "", ""),
    ],
)
def test_the_class_word_takes_the_place_of_the_trigger_word(class_word: str, caption: str, kept: str) -> None:
    concept = Concept("brick", "matbrk", HeldOutShare(), ("a matbrk wall",), class_word=class_word)
    assert concept.class_caption(caption) == kept


def test_a_missing_concept_says_what_writes_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="make new"):
        read_concept(tmp_path / "concept.yaml")
