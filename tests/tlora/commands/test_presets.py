"""What is advised for a card of each size, and that it can be set and fits."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tlora.commands.presets import USABLE, Preset, choose_preset
from tlora.flux.spec import FluxShape, ModelSpec, hub_base
from tlora.runtime.settings import parse_settings
from tlora.training.memory_advice import FLAT_KEYS, MemoryPlan
from tlora.training.memory_estimate import Workload
from tlora.training.settings import TrainingSettings

ROOT = Path(__file__).parents[3]
PARAMS = yaml.safe_load((ROOT / "params/flux1-dev.yaml").read_text())
TRAIN = PARAMS["train"]
CARDS = {  # GB -> quantisation, recomputed, samples at once
    24: ("int8", True, 4),
    48: ("none", 4, 1),
    80: ("none", False, 2),
    141: ("none", False, 4),
}


def plan(card: float, resolution: int = 1024) -> MemoryPlan:
    known = {f.name for part in TrainingSettings.__dataclass_fields__.values() for f in dataclasses.fields(part.type)}
    settings = parse_settings(TrainingSettings, {k: v for k, v in TRAIN.items() if k in known}, "params")
    load = Workload((resolution // 16) ** 2, 77, PARAMS["model"]["dtype"], TRAIN["mixed_precision"])
    return MemoryPlan(FluxShape(), settings, tuple(TRAIN["target_modules"]), load, card * 1e9)


def klein_plan(card: float) -> MemoryPlan:
    params = yaml.safe_load((ROOT / "params/flux2-klein-base-4b.yaml").read_text())
    train, known = (
        params["train"],
        {f.name for p in TrainingSettings.__dataclass_fields__.values() for f in dataclasses.fields(p.type)},
    )
    settings = parse_settings(TrainingSettings, {k: v for k, v in train.items() if k in known}, "params")
    tokens = (params["cache_latents"]["resolution"] // 16) ** 2
    load = Workload(tokens, params["cache_prompts"]["max_sequence_length"], params["model"]["dtype"], train["mixed_precision"])
    return MemoryPlan(hub_base(params["model"]["path"]).shape, settings, tuple(train["target_modules"]), load, card * 1e9)


@pytest.mark.parametrize(
    ("card", "advice"),
    [(8, ("int8", True, 1)), (12, ("none", True, 1)), (16, ("none", True, 2)), (24, ("none", 4, 1)), (48, ("none", False, 2))],
)
def test_klein_has_a_preset_for_each_card_and_its_parameter_file_is_that_of_24_gb(
    card: int, advice: tuple[str, bool | int, int]
) -> None:
    preset = choose_preset(klein_plan(card), 1024)
    assert preset is not None
    loop = preset.plan.settings.loop
    assert (preset.plan.load.quantisation, loop.gradient_checkpointing, loop.train_batch_size) == advice
    assert (preset.resolution, loop.train_batch_size * loop.gradient_accumulation_steps) == (1024, 4)
    row = f"| klein, {card} GB | {advice[0]} | {_word(advice[1])} | {advice[2]} | {preset.plan.estimate().total / 1e9:.1f} GB |"
    assert row in (ROOT / "docs/cards.md").read_text()
    file = (ROOT / "params/flux2-klein-base-4b.yaml").read_text()
    assert "on one GPU of 24 GB" in file.splitlines()[0]
    if card == 24:
        params, advised = yaml.safe_load(file), yaml.safe_load("\n".join(preset.lines()))
        assert {section: {key: params[section][key] for key in values} for section, values in advised.items()} == advised


def _word(recomputed: bool | int) -> str:
    return ("on" if recomputed else "off") if isinstance(recomputed, bool) else str(recomputed)


def chosen(card: float, resolution: int = 1024) -> Preset:
    preset = choose_preset(plan(card, resolution), resolution)
    assert preset is not None
    return preset


def test_the_parameter_file_for_80_gb_is_what_is_advised_for_80_gb() -> None:
    assert "one GPU of 80 GB" in (ROOT / "params/flux1-dev.yaml").read_text().splitlines()[0]
    advised: dict[str, dict[str, Any]] = yaml.safe_load("\n".join(chosen(80).lines()))
    assert {section: {key: PARAMS[section][key] for key in values} for section, values in advised.items()} == advised


@pytest.mark.parametrize("card", CARDS)
def test_flux1_dev_has_a_preset_for_each_card_that_fits_and_takes_as_many_samples_a_step(card: int) -> None:
    preset = chosen(card)
    loop = preset.plan.settings.loop
    assert (preset.plan.load.quantisation, loop.gradient_checkpointing, loop.train_batch_size) == CARDS[card]
    assert preset.resolution == 1024
    assert preset.plan.estimate().total <= USABLE * card * 1e9
    assert loop.train_batch_size * loop.gradient_accumulation_steps == 4


def test_the_page_on_cards_shows_these_presets() -> None:
    rows = re.findall(
        r"^\| (\d+) GB \| (\w+) \| (\w+) \| (\d) \| ([\d.]+) GB \|", (ROOT / "docs/cards.md").read_text(), flags=re.M
    )
    assert {int(card): (how, yaml.safe_load(word), int(batch)) for card, how, word, batch, _ in rows} == CARDS
    assert {card: size for card, *_, size in rows} == {
        str(card): f"{chosen(card).plan.estimate().total / 1e9:.1f}" for card in CARDS
    }


def test_the_lines_are_yaml_for_the_parameter_file() -> None:
    lines: dict[str, Any] = yaml.safe_load("\n".join(chosen(24).lines()))
    assert lines == {
        "model": {"quantisation": "int8"},
        "cache_latents": {"resolution": 1024},
        "train": {"gradient_checkpointing": True, "train_batch_size": 4, "gradient_accumulation_steps": 1},
    }
    assert all(key in PARAMS[section] for section, values in lines.items() for key in values)
    assert parse_settings(ModelSpec, PARAMS["model"] | lines["model"], "params").quantisation == "int8"


def test_a_flat_configuration_gets_its_own_keys() -> None:
    whole = plan(80)
    recomputing = dataclasses.replace(whole.settings, loop=dataclasses.replace(whole.settings.loop, gradient_checkpointing=True))
    preset = choose_preset(dataclasses.replace(whole, settings=recomputing, keys=FLAT_KEYS), 1024)
    assert preset is not None
    assert list(preset.lines()) == [
        "quantisation: none",
        "resolution: 1024",
        "train_batch_size: 4",
        "gradient_accumulation_steps: 1",
    ]
    assert preset.plan.settings.loop.gradient_checkpointing  # it has no key for that


def test_smaller_pictures_come_last_and_only_sizes_that_the_base_can_take() -> None:
    assert chosen(12).reason().startswith("nothing finer than nf4 fits")
    assert (chosen(12).resolution, chosen(8.2).resolution) == (1024, 512)
    assert choose_preset(plan(8.2, 1008), 1008) is None  # its half is no multiple of 16
    assert choose_preset(plan(6), 1024) is None
