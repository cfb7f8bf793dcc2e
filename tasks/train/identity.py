"""What a training run is a function of: the settings that shape it, the metadata that its adapters carry, its fingerprint."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tasks.train.preview import PreviewSettings
from tasks.train.stopping import StopSettings
from tlora.flux.cached import CLASS_INDEX, INDEX
from tlora.flux.files import base_revision, read_family
from tlora.flux.noise import MAX_TIMESTEP
from tlora.flux.prior_folder import PRIOR_CAPTIONS, PRIOR_LATENTS
from tlora.flux.spec import ModelSpec
from tlora.metadata.adapter import AdapterMetadata
from tlora.metadata.concept import read_concept
from tlora.metadata.digests import code_digest, digest_of, params_digest
from tlora.runtime.ranges import require_whole
from tlora.training.settings import TrainingSettings, require_checkpointing

SHAPES_NOTHING = ("preview", "state_steps", "keep_states", "leave_blocks_out")
STAGE = "tasks.train.__main__"  # what runs; the package itself is an empty file
FIRST_PARTY = ("tasks", "tlora")
CANNOT_CHANGE_RESULTS = ("tasks.tracking",)  # what is shown of a run cannot change what it learns


@dataclass(frozen=True)
class TrainSettings:
    """The stage's settings: the run's own, and how it is carried out.

    Args:
        training: Everything that shapes the run.
        preview: Pictures in the middle of training, and the guard.
        stop: When it ends before its last step.
        target_modules: Suffixes of the Linears to adapt.
        leave_blocks_out: Whether they may leave all blocks of a kind untouched.
        mixed_precision: `no` or `bf16`.
        checkpointing_steps: Steps between adapter checkpoints.
        state_steps: Steps between saved states; what a kill can cost.
        keep_states: How many states are kept.
    """

    training: TrainingSettings
    preview: PreviewSettings
    stop: StopSettings
    target_modules: tuple[str, ...]
    leave_blocks_out: bool = False
    mixed_precision: Literal["no", "bf16"] = "bf16"
    checkpointing_steps: int = 100
    state_steps: int = 50
    keep_states: int = 2

    def __post_init__(self) -> None:
        require_checkpointing(self.checkpointing_steps, self.training.loop.max_train_steps)
        require_whole("state_steps", self.state_steps)
        require_whole("keep_states", self.keep_states)

    @property
    def asks_for_class_captions(self) -> bool:
        """Whether captions without the trigger word are part of what the run is a function of."""
        return self.training.preservation.is_on or self.stop.is_on

    @property
    def guarded_step(self) -> int:
        """The step at which the adapter's effect is checked, after the warm-up and no later than the last step; 0 is never."""
        if not self.preview.guard_step:
            return 0
        warm = self.training.optimizer.lr_warmup_steps + 1
        return min(max(self.preview.guard_step, warm), self.training.loop.max_train_steps)


@dataclass(frozen=True)
class Inputs:
    """Where a run's inputs lie: cached captions, cached views, prior pictures, and concept.yaml."""

    prompts: Path
    latents: Path
    prior: Path
    concept: Path


def describe_adapter(settings: TrainSettings, model: ModelSpec, inputs: Inputs) -> AdapterMetadata:
    """Return what every adapter of the run says of itself, at step 0."""
    concept = read_concept(inputs.concept)
    index = json.loads((inputs.latents / INDEX).read_text(encoding="utf-8"))
    return AdapterMetadata(
        config=settings.training.adapter,
        target_modules=settings.target_modules,
        max_timestep=MAX_TIMESTEP,
        base=model.path,
        base_revision=base_revision(model),
        base_quantisation=model.quantisation,
        family=read_family(model).name,
        data_digest=index["data_digest"],
        params_digest=params_digest(_asked_for(settings, model, inputs)),
        code_digest=code_digest(STAGE, FIRST_PARTY, CANNOT_CHANGE_RESULTS),
        concept=concept.name,
        trigger=concept.trigger,
    )


def fingerprint_fields(
    settings: TrainSettings, model: ModelSpec, inputs: Inputs, metadata: AdapterMetadata, processes: int
) -> dict[str, Any]:
    """Return everything that the result is a function of, by name, so that a difference can be named."""
    return {
        **_asked_for(settings, model, inputs),
        "base_revision": metadata.base_revision,
        "data": metadata.data_digest,
        "code": metadata.code_digest,
        "concept": [metadata.concept, metadata.trigger],
        "processes": processes,
    }


def _asked_for(settings: TrainSettings, model: ModelSpec, inputs: Inputs) -> dict[str, Any]:
    views, captions = _index_digest(inputs.latents), _index_digest(inputs.prompts)
    if settings.asks_for_class_captions:
        captions = digest_of([captions, _index_digest(inputs.prompts, CLASS_INDEX)])
    if settings.training.prior.is_on:
        views = digest_of([views, _index_digest(inputs.prior / PRIOR_LATENTS)])
        captions = digest_of([captions, _index_digest(inputs.prior / PRIOR_CAPTIONS)])
    return {"params": shaping_params(settings, model), "views": views, "captions": captions}


def shaping_params(settings: TrainSettings, model: ModelSpec) -> dict[str, Any]:
    """Return the settings that the result is a function of; those of a part that is off are no part of it."""
    plain = dataclasses.asdict(settings)
    if not settings.stop.is_on:
        del plain["stop"]
    if not settings.training.preservation.is_on:
        del plain["training"]["preservation"]
    if not settings.training.prior.is_on:
        del plain["training"]["prior"]
    return {"train": {k: v for k, v in plain.items() if k not in SHAPES_NOTHING}, "model": dataclasses.asdict(model)}


def _index_digest(cache: Path, name: str = INDEX) -> str:
    """Return the digest of what a cache holds, by content key and so by how it was encoded, not of its bytes."""
    return digest_of((cache / name).read_text(encoding="utf-8"))
