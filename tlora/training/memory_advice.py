"""A run and the memory that there is for it: whether it fits, and the smallest change that would make it fit."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tlora.errors import OutOfMemoryError
from tlora.flux.spec import FluxShape
from tlora.training.memory_estimate import GB, QUANTISATIONS, MemoryEstimate, Workload, estimate_memory
from tlora.training.settings import TrainingSettings

_CLEARLY_LESS = 0.95  # where memory ran out although the estimate fitted: the estimate errs by about so much


@dataclass(frozen=True)
class Keys:
    """What settings are called where a run is configured; by default in params.yaml. Without a name it cannot be set there."""

    checkpointing: str = "train.gradient_checkpointing"
    batch: str = "train.train_batch_size"
    accumulation: str = "train.gradient_accumulation_steps"
    half_types: str = "model.dtype: bfloat16"
    quantisation: str = "model.quantisation"
    resolution: str = "cache_latents.resolution"


PARAMS_KEYS = Keys()
FLAT_KEYS = Keys("", "train_batch_size", "gradient_accumulation_steps", "mixed_precision: bf16", "quantisation", "resolution")


@dataclass(frozen=True)
class MemoryPlan:
    """A run and the memory that there is for it.

    Args:
        shape: The base model's.
        settings: Everything that shapes the run.
        targets: Suffixes of the Linears to adapt.
        load: Sizes and types.
        available: Bytes that the device has free before the model is loaded.
        keys: What the settings are called where the run is configured.
    """

    shape: FluxShape
    settings: TrainingSettings
    targets: Sequence[str]
    load: Workload
    available: float
    keys: Keys = PARAMS_KEYS

    def estimate(self) -> MemoryEstimate:
        """Return the expected peak."""
        return estimate_memory(self.shape, self.settings, self.targets, self.load)

    def line(self) -> str:
        """Return what is needed and what there is, with a warning and a way out where that is too little."""
        estimate = self.estimate()
        line = f"memory: about {estimate} of {self.available / GB:.1f} GB that are free"
        return line if estimate.total <= self.available else f"warning: {line}: {self.advice()}"

    def advice(self) -> str:
        """Return the smallest change that makes the run fit."""
        present = self.estimate().total
        limit = self.available if present > self.available else _CLEARLY_LESS * present
        for words, settings, load in _smaller(self.settings, self.load, self.keys):
            needed = estimate_memory(self.shape, settings, self.targets, load).total
            if needed <= limit:
                return f"set {words}, which needs about {needed / GB:.1f} GB"
        return "nothing short of a device with more memory makes it fit"


@contextmanager
def explained_memory(plan: MemoryPlan) -> Iterator[None]:
    """Add to an error about memory what would make the run fit."""
    try:
        yield
    except OutOfMemoryError as error:
        raise OutOfMemoryError(f"{error}: {plan.advice()}") from error


def _smaller(settings: TrainingSettings, load: Workload, keys: Keys) -> Iterator[tuple[str, TrainingSettings, Workload]]:
    """Yield ever larger changes: first those that learn the same, then those that round, then those that see less."""
    words: list[str] = []

    def changed(word: str) -> tuple[str, TrainingSettings, Workload]:
        words.append(word)
        return ", ".join(words), settings, load

    for every in (4, 2, 1):
        if every < (settings.loop.recompute_every or math.inf):
            loop = dataclasses.replace(settings.loop, gradient_checkpointing=True if every == 1 else every)
            settings = dataclasses.replace(settings, loop=loop)
            words.clear()
            yield changed(f"{keys.checkpointing}: {'true' if every == 1 else every}")
    batch, micro_steps = settings.loop.train_batch_size, settings.loop.gradient_accumulation_steps
    kept = list(words)
    for smaller in (n for n in range(batch - 1, 0, -1) if batch % n == 0):
        loop = dataclasses.replace(
            settings.loop, train_batch_size=smaller, gradient_accumulation_steps=micro_steps * batch // smaller
        )
        settings = dataclasses.replace(settings, loop=loop)
        words[:] = kept
        yield changed(f"{keys.batch}: {smaller} with gradient_accumulation_steps: {loop.gradient_accumulation_steps}")
    if load.dtype == "float32":
        load = dataclasses.replace(load, dtype="bfloat16")
        yield changed(keys.half_types)
    kept = list(words)
    for fewer_bits in QUANTISATIONS[QUANTISATIONS.index(load.quantisation) + 1 :]:
        load, words[:] = dataclasses.replace(load, quantisation=fewer_bits), kept
        yield changed(f"{keys.quantisation}: {fewer_bits}")
    for part, name in ((2, "half"), (4, "a quarter of")):
        fewer = dataclasses.replace(load, image_tokens=max(1, load.image_tokens // part**2))
        yield ", ".join([*words, f"{name} the {keys.resolution}"]), settings, fewer
