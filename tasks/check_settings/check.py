"""Whether any stage would refuse params.yaml, and whether its models can be had, in seconds.

It alone knows the settings of every stage. Stages and flows ask it before they begin (`tasks.running.all_settings`).
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from tasks.cache_latents.stage import cache_latents
from tasks.cache_prompts.stage import cache_prompts
from tasks.draw_prior.folder import DATA, list_prior_pictures, require_place
from tasks.draw_prior.stage import draw_prior
from tasks.evaluate.stage import evaluate
from tasks.registry.settings import RetrainSettings
from tasks.registry.verdict import PromoteSettings
from tasks.running.cli import BAD_INPUT, SETTINGS, named_section, read_params
from tasks.running.telemetry import telemetry_off
from tasks.train.stage import train
from tasks.validate.stage import validate
from tlora.errors import SettingsError, TloraError
from tlora.evaluation.efficientnet import find_efficientnet
from tlora.evaluation.evaluator import require_evaluator
from tlora.flux.files import require_base
from tlora.flux.model import choose_device, image_tokens_of, outline_transformer
from tlora.inject import require_targets
from tlora.metadata.concept import read_concept
from tlora.pictures.views import require_resolution
from tlora.runtime.remedies import PIPELINE, explain
from tlora.runtime.settings import nearest, parse_settings
from tlora.training.optimizer import require_optimizer
from tlora.trust.licences import LicenceSettings
from tlora.trust.settings import TrustSettings

STAGES = (validate, cache_prompts, cache_latents, draw_prior, train, evaluate)


def section_types() -> dict[str, type]:
    """Return what each section of params.yaml is read as."""
    found: dict[str, type] = {
        "promote": PromoteSettings,
        "retrain": RetrainSettings,
        "trust": TrustSettings,
        "licence": LicenceSettings,
    }
    for stage in STAGES:
        kinds = {name: kind for name, kind in get_type_hints(stage).items() if isinstance(kind, type) and is_dataclass(kind)}
        found |= {stage.__name__ if name == SETTINGS else name: kind for name, kind in kinds.items()}
    return found


def parse_sections(params: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return every section as the settings that it is read as.

    Args:
        params: Sections, as read.
        where: The file, for the message.

    Raises:
        SettingsError: If a section is missing, unknown or wrong.
    """
    types = section_types()
    for section in params:
        if section not in types:
            raise SettingsError(f"{where}: unknown section {section!r}{nearest(str(section), list(types))}")
    for section in types:
        if not isinstance(params.get(section), Mapping):
            raise SettingsError(f"{where}: section {section!r} is missing or is not a mapping")
    return {section: parse_settings(kind, params[section], f"{where}: {section}") for section, kind in types.items()}


def check_settings(params: Path) -> None:
    """Refuse what any stage would refuse, before a weight is loaded.

    Raises:
        TloraError: In one line.
    """
    settings = parse_sections(read_params(params), str(params))
    concept = read_concept(params.with_name("concept.yaml"))
    model, evaluation = settings["model"], settings["evaluate"]
    require_base(model)
    choose_device(model)
    with named_section("evaluate"):
        require_evaluator(evaluation.evaluator, evaluation.evaluator_revision)
        if evaluation.dinov2:
            require_evaluator(evaluation.dinov2, evaluation.dinov2_revision)
        if evaluation.second_opinion:
            find_efficientnet()
        if look := evaluation.fast_look(model):
            look.require(model)
    with named_section("cache_latents"):
        multiple = require_resolution(settings["cache_latents"], model)
    with named_section("draw_prior"):
        prior = settings["draw_prior"]
        if prior.folder:
            require_place(Path(prior.folder))
        if prior.folder and DATA.is_dir():  # data that is not here yet is brought in by the run
            list_prior_pictures(Path(prior.folder), concept.trigger, most=prior.pictures)
    with named_section("train"):
        if settings["train"].training.prior.is_on and not settings["draw_prior"].makes_any:
            raise SettingsError("prior_share is above 0, draw_prior.pictures is 0 and draw_prior.folder empty: nothing to mix in")
        require_optimizer(settings["train"].training.optimizer)
        stop = settings["train"].stop
        if stop.is_on:
            require_evaluator(stop.stop_evaluator, stop.stop_evaluator_revision)
    if multiple is None:
        return  # on the hub, and not here yet: its shape is not known
    training = settings["train"]
    with named_section("train"):
        base, config = outline_transformer(model), training.training.adapter
        require_targets(base, training.target_modules, config, leave_blocks_out=training.leave_blocks_out)
    with named_section("evaluate"):
        image_tokens_of(model, evaluation.sample.width, evaluation.sample.height)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tasks.check_settings", description="Check every section of params.yaml.")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the file; concept.yaml lies beside it")
    parser.add_argument("--quiet", action="store_true", help="say nothing where all is in order")
    options = parser.parse_args(arguments)
    telemetry_off()
    try:
        check_settings(options.params)
    except (TloraError, OSError) as error:
        reason = explain(error, PIPELINE) if isinstance(error, TloraError) else error
        print(f"settings: error: {reason}", file=sys.stderr)
        return BAD_INPUT
    if not options.quiet:
        print(f"settings: no stage refuses {options.params}, and its models can be had")
    return 0
