"""Settings for a card of a given size, worked out from the memory estimate: what learns best first, then what is fastest."""

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from tlora.flux.latents import PATCH
from tlora.training.memory_advice import MemoryPlan
from tlora.training.memory_estimate import QUANTISATIONS

USABLE = 0.9  # of a card; the rest is for the driver, for fragments, and for what the estimate errs by
_RECOMPUTED: dict[bool | int, str] = {  # the fastest first
    False: "nothing is recomputed",
    4: "every 4th block is recomputed",
    2: "every other block is recomputed",
    True: "every block is recomputed",
}
_PARTS = (1, 2, 4)  # of the resolution that is asked for
_WHY = {
    "none": "the base fits as it is",
    "int8": "the base as it is does not fit, and int8 changes it least",
    "nf4": "nothing finer than nf4 fits, which rounds coarsely and needs the extra `quantised`",
}


@dataclass(frozen=True)
class Preset:
    """What to set for a card.

    Args:
        plan: The run as it would be; `available` is what of the card can be used.
        resolution: Pixels on a side.
    """

    plan: MemoryPlan
    resolution: int

    def reason(self) -> str:
        """Return in a line why it is this."""
        return f"{_WHY[self.plan.load.quantisation]}; {_RECOMPUTED[self.plan.settings.loop.gradient_checkpointing]}"

    def lines(self) -> Iterator[str]:
        """Yield the lines to set, as YAML."""
        keys, loop = self.plan.keys, self.plan.settings.loop
        values = {
            keys.quantisation: self.plan.load.quantisation,
            keys.resolution: self.resolution,
            keys.checkpointing: str(loop.gradient_checkpointing).lower(),
            keys.batch: loop.train_batch_size,
            keys.accumulation: loop.gradient_accumulation_steps,
        }
        for section, keys_of_it in itertools.groupby(filter(None, values), lambda key: key.rpartition(".")[0]):
            if section:
                yield f"{section}:"
            for key in keys_of_it:
                yield f"{'  ' if section else ''}{key.rpartition('.')[2]}: {values[key]}"


def choose_preset(plan: MemoryPlan, resolution: int) -> Preset | None:
    """Return the first that fits, or None: larger pictures first, then finer weights, then less recomputed, then more at once.

    The samples of an optimizer step stay as many as they are.

    Args:
        plan: The run as it is configured, at `resolution`; `available` is the whole card.
        resolution: Pixels on a side.
    """
    usable = dataclasses.replace(plan, available=USABLE * plan.available)
    return next(
        (preset for preset in _candidates(usable, resolution) if preset.plan.estimate().total <= preset.plan.available), None
    )


def _candidates(plan: MemoryPlan, resolution: int) -> Iterator[Preset]:
    loop, multiple = plan.settings.loop, plan.shape.pixels_per_latent * PATCH
    samples = loop.train_batch_size * loop.gradient_accumulation_steps
    parts = [part for part in _PARTS if resolution % (part * multiple) == 0]
    recomputed = _RECOMPUTED if plan.keys.checkpointing else [loop.gradient_checkpointing]
    batches = [batch for batch in range(samples, 0, -1) if samples % batch == 0]
    for part, quantisation, recompute, batch in itertools.product(parts, QUANTISATIONS, recomputed, batches):
        changed = dataclasses.replace(
            loop, gradient_checkpointing=recompute, train_batch_size=batch, gradient_accumulation_steps=samples // batch
        )
        settings = dataclasses.replace(plan.settings, loop=changed)
        load = dataclasses.replace(plan.load, quantisation=quantisation, image_tokens=plan.load.image_tokens // part**2)
        yield Preset(dataclasses.replace(plan, settings=settings, load=load), resolution // part)
