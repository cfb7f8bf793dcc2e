"""concept.yaml: what the pictures are of. It stays as it is when the base model is switched.

Text in, frozen values out; whatever it says that nobody knows is refused with the nearest known word.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlora.errors import SettingsError
from tlora.runtime.settings import nearest, parse_settings, read_mapping

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_OPTIONAL = ("held_out", "other_prompts", "class_word")
_KEYS = ["name", "trigger", "class_word", "held_out", "prompts", "other_prompts"]
OTHER_PROMPTS = ("a red brick wall", "a ball made of brown wood", "a cube made of green marble", "a green grass floor")


@dataclass(frozen=True)
class HeldOutShare:
    """A share of the pictures to hold out, drawn by their content.

    Args:
        fraction: Above 0, at most 0.5.
        seed: Another seed, other pictures.
    """

    fraction: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 0.5:
            raise ValueError(f"need 0 < fraction <= 0.5, got {self.fraction}")


@dataclass(frozen=True)
class Concept:
    """What is to be learnt.

    Args:
        name: Short name, part of the registered model's name: lower case, digits and hyphens.
        trigger: The word that comes to mean the concept.
        held_out: Names of pictures that are never trained on, or a share of them.
        prompts: What evaluation draws.
        other_prompts: What the base draws without the trigger word, and an adapter should go on drawing; empty: not looked at.
        class_word: What the trigger word is one of, such as `brick`: it takes its place in what preservation keeps. Empty where
            the captions name it beside the trigger word, which is then left out.
    """

    name: str
    trigger: str
    held_out: tuple[str, ...] | HeldOutShare
    prompts: tuple[str, ...]
    other_prompts: tuple[str, ...] = OTHER_PROMPTS
    class_word: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name: lower-case letters, digits and hyphens make a name, got {self.name!r}")
        if not self.trigger or self.trigger != " ".join(self.trigger.split()):
            raise ValueError(f"trigger: must be a word without spaces around it, got {self.trigger!r}")
        if self.held_out == ():
            raise ValueError("held_out: names no picture; name at least one, or give {fraction: 0.2, seed: 0}")
        if not self.prompts or not all(prompt.strip() for prompt in self.prompts):
            raise ValueError("prompts: give at least one, and none of them empty")
        if len(set(self.prompts)) < len(self.prompts):
            raise ValueError("prompts: one of them is given twice")
        self._require_other_words()

    def _require_other_words(self) -> None:
        for prompt in self.other_prompts:
            if not prompt.strip() or prompt in self.prompts:
                raise ValueError(f"other_prompts: must be prompts, and none of `prompts`, got {prompt!r}")
            if self.trigger in prompt:
                raise ValueError(f"other_prompts: {prompt!r} holds the trigger word, so it does not show what the base draws")
        if len(set(self.other_prompts)) < len(self.other_prompts):
            raise ValueError("other_prompts: one of them is given twice")
        if self.class_word != " ".join(self.class_word.split()) or self.trigger in self.class_word:
            raise ValueError(f"class_word: must be words without spaces around them or the trigger, got {self.class_word!r}")

    def class_caption(self, caption: str) -> str:
        """Return a caption with the class word in the trigger word's place; one that does not hold it is as it was.

        Example:
            >>> brick = Concept("brick", "matbrk", ("a.png",), ("a matbrk wall",), class_word="old brick")
            >>> brick.class_caption("a matbrk wall, and matbrks")
            'an old brick wall, and matbrks'
        """
        words = [self.class_word] if self.class_word else []
        pattern = rf"(?:(?<!\w)(an?)\s+)?(?<!\w){re.escape(self.trigger)}(?!\w)\s*(\w*)"

        def instead(found: re.Match[str]) -> str:
            said = [*words, *([found[2]] if found[2] else [])]
            article = [] if not found[1] else ["an" if said and said[0][0] in "aeiou" else "a"]
            return " ".join([*article, *said])

        return re.sub(pattern, instead, caption).strip()


def read_concept(path: Path) -> Concept:
    """Read concept.yaml.

    Raises:
        SettingsError: If it is missing, is not YAML, or holds an unknown, missing or wrong key.
    """
    what = f"a mapping with {', '.join(_KEYS)}"
    given = read_mapping(path, what, ": 'make new DATA=... TRIGGER=...' writes one")
    return parse_concept(given, str(path))


def parse_concept(given: Mapping[str, Any], where: str) -> Concept:
    """Build a concept from a mapping.

    Without `held_out` it is a fifth of the pictures, without `other_prompts` it is `OTHER_PROMPTS`, without `class_word` empty.

    Raises:
        SettingsError: Naming place, key and what is wrong.
    """
    for key in given:
        if key not in _KEYS:
            raise SettingsError(f"{where}: unknown key {key!r}{nearest(str(key), _KEYS)}")
    texts = parse_settings(_Texts, {k: v for k, v in given.items() if k not in _OPTIONAL}, where)
    try:
        others = parse_settings(_Others, {"other_prompts": given.get("other_prompts", OTHER_PROMPTS)}, where).other_prompts
        named = parse_settings(_Class, {"class_word": given.get("class_word", "")}, where).class_word
        return Concept(texts.name, texts.trigger, _held_out(given.get("held_out", {}), where), texts.prompts, others, named)
    except ValueError as error:
        raise SettingsError(f"{where}: {error}") from error


@dataclass(frozen=True)
class _Texts:
    name: str
    trigger: str
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class _Others:
    other_prompts: tuple[str, ...]


@dataclass(frozen=True)
class _Class:
    class_word: str


@dataclass(frozen=True)
class _Names:
    held_out: tuple[str, ...]


def _held_out(given: Any, where: str) -> tuple[str, ...] | HeldOutShare:
    if isinstance(given, Mapping):
        return parse_settings(HeldOutShare, given, f"{where}: held_out", complete=False)
    return parse_settings(_Names, {"held_out": given}, where).held_out
