"""The flat configuration that people already have means in `tlora train` what its keys mean in params.yaml."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.evaluate.settings import EvaluateSettings
from tasks.train.identity import TrainSettings
from tlora.commands.flat_config import FlatConfig, read_flat_config
from tlora.pictures.tokens import TextSettings
from tlora.pictures.views import ViewSettings
from tlora.runtime.settings import field_names, parse_settings

ROOT = Path(__file__).parents[3]
THEIRS = ROOT / "configs/flux_tlora_material.yaml"
PLACES = {"train_data_dir", "output_dir"}  # paths, which dvc.yaml holds
SECTIONS: dict[str, type] = {
    "train": TrainSettings,
    "cache_latents": ViewSettings,
    "cache_prompts": TextSettings,
    "evaluate": EvaluateSettings,
}


def table() -> dict[str, str]:
    """Return key -> name in params.yaml, as the page says."""
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| (.*) \|$", (ROOT / "docs/cli.md").read_text(), flags=re.M)
    return {key: place.split("`")[1] for key, place in rows if "`" in place}


def value_of(settings: Any, name: str) -> Any:
    """Return a field of a settings dataclass or of one inside it."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name == name:
            return value
        if dataclasses.is_dataclass(value) and name in field_names(type(value)):
            return value_of(value, name)
    raise KeyError(name)


def test_every_key_has_a_row_in_the_table_and_every_row_a_place_in_params() -> None:
    params = yaml.safe_load((ROOT / "params/flux1-dev.yaml").read_text())
    assert set(table()) == {field.name for field in dataclasses.fields(FlatConfig)}
    for key, place in table().items():
        if key not in PLACES:
            section, name = place.split(".")
            assert name in params[section], key


@pytest.mark.parametrize("key", sorted(set(yaml.safe_load(THEIRS.read_text())) - PLACES - {"pretrained_model_name_or_path"}))
def test_a_key_means_what_its_name_in_params_means(key: str) -> None:
    section, name = table()[key].split(".")
    params = yaml.safe_load((ROOT / "params/flux1-dev.yaml").read_text())
    given = yaml.safe_load(THEIRS.read_text())[key]
    there = parse_settings(SECTIONS[section], {**params[section], name: given}, "params")
    config = read_flat_config(THEIRS)
    parts = {"train": config.training(), "cache_latents": config.views(), "evaluate": config.sample()}
    own = parts.get(section)
    here = value_of(own, name) if own is not None and name in field_names(type(own)) else getattr(config, key)
    assert here == value_of(there, name)


def test_the_file_that_people_have_is_read_as_it_is() -> None:
    given = yaml.safe_load(THEIRS.read_text())
    config = read_flat_config(THEIRS)
    assert (len(given), config.model().path, config.adapter().min_rank) == (25, "black-forest-labs/FLUX.1-dev", 8)
    for key, value in given.items():
        assert getattr(config, key) == (tuple(value) if isinstance(value, list) else value)


def test_what_is_missing_takes_the_old_default() -> None:
    config = FlatConfig("somewhere", lora_rank=10)
    assert (config.adapter().alpha, config.adapter().min_rank, config.target_modules) == (10.0, 5, ("to_q", "to_k", "to_v"))
    optimizer = config.training().optimizer
    assert (optimizer.adam_beta1, optimizer.adam_beta2, optimizer.adam_weight_decay, optimizer.adam_epsilon) == (
        0.9,
        0.999,
        0,
        1e-8,
    )
