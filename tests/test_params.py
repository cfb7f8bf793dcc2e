"""The parameter files: complete, of one shape, and accepted by the stages that read them."""

import dataclasses
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from tasks.cache_latents.stage import cache_latents
from tasks.cache_prompts.stage import cache_prompts
from tasks.draw_prior.stage import draw_prior
from tasks.evaluate.stage import evaluate
from tasks.register.stage import register
from tasks.running.cli import read_section
from tasks.train.stage import train
from tasks.validate.stage import validate
from tlora.commands.flat_config import FlatConfig, read_flat_config
from tlora.runtime.settings import parse_settings

ROOT = Path(__file__).parents[1]
FILES = ["params.yaml", *(f"params/{file.name}" for file in sorted((ROOT / "params").glob("*.yaml")))]
STAGES = [validate, cache_prompts, cache_latents, draw_prior, train, evaluate, register]


def keys(file: str) -> set[tuple[str, str]]:
    """Return (section, key) of a parameter file."""
    params = yaml.safe_load((ROOT / file).read_text())
    return {(section, key) for section, values in params.items() for key in values}


@pytest.mark.parametrize("file", FILES)
def test_all_parameter_files_have_the_same_keys(file: str) -> None:
    assert keys(file) == keys("params.yaml")


def test_krea_differs_from_flux_1_dev_in_nothing_but_its_weights() -> None:
    dev, krea = (yaml.safe_load((ROOT / f"params/flux1-{name}.yaml").read_text()) for name in ("dev", "krea-dev"))
    assert krea["model"].pop("path") == "black-forest-labs/FLUX.1-Krea-dev"
    assert dev["model"].pop("revision") != krea["model"].pop("revision")
    del dev["model"]["path"]
    assert krea == dev


def test_what_is_shipped_is_the_pocket() -> None:
    assert (ROOT / "params.yaml").read_text() == (ROOT / "params/pocket.yaml").read_text()


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_every_stage_accepts_its_sections(stage: object, file: str) -> None:
    hints = get_type_hints(stage)
    for name, kind in hints.items():
        if dataclasses.is_dataclass(kind):
            section = stage.__name__ if name == "settings" else name
            parse_settings(kind, read_section(ROOT / file, section), f"{file}: {section}")


def test_the_flat_configuration_that_users_have_is_read_as_it_is() -> None:
    config = read_flat_config(ROOT / "configs/flux_tlora_material.yaml")
    assert config.adapter().rank == 16
    assert config.adapter().min_rank == 8
    assert config.training().optimizer.learning_rate == 5e-5
    assert config.sample().guidance_scale == 4.0


def test_the_flat_configuration_of_the_pocket_trains_as_the_pipeline_does_but_for_fewer_steps() -> None:
    config, section = read_flat_config(ROOT / "configs/pocket.yaml"), read_section(ROOT / "params/pocket.yaml", "train")
    adapter = config.adapter()
    assert {key: getattr(adapter, key) for key in ("rank", "min_rank", "alpha", "trainer_type")}.items() <= section.items()
    for key in ("learning_rate", "train_batch_size", "target_modules", "mixed_precision"):
        ours = getattr(config, key)
        assert (list(ours) if isinstance(ours, tuple) else ours) == section[key], key
    assert (ROOT / config.train_data_dir).parent.name == "data"


def test_missing_flat_keys_take_the_old_defaults() -> None:
    config = FlatConfig("black-forest-labs/FLUX.1-dev", lora_rank=32)
    assert (config.adapter().alpha, config.adapter().min_rank) == (32, 16)
    assert config.target_modules == ("to_q", "to_k", "to_v")
    assert config.num_inference_steps == 25
