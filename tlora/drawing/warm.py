"""A base model that stays in memory between pictures, and adapters that take turns on it: for whoever looks at one after another.

The pictures are those of `tlora infer`, to the bit. The device is held while one is drawn and no longer: on a GPU the weights
leave it afterwards, so that training finds it empty.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from tlora.checkpoint import attach_adapter
from tlora.drawing.draw import Described, Picture, read_prompts, require_family
from tlora.drawing.picture_record import AdapterRecord, save_picture
from tlora.drawing.setup import DrawingSetup
from tlora.flux.files import base_revision, require_base
from tlora.flux.model import choose_device, load_scheduler, load_transformer, load_vae
from tlora.flux.spec import ModelSpec
from tlora.inject import adapter_configs, eject_tlora_from_transformer
from tlora.metadata.adapter import adapter_digest, find_weights
from tlora.runtime.device_lock import hold_device
from tlora.sampling import Painter, SampleSettings, draw_pictures, step_masks

MOST_PROMPTS = 64  # whose embeddings are kept
Say = Callable[[str], None]
Embedded = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]


@dataclass(frozen=True)
class Wanted:
    """One picture to draw: its adapter (None for the bare base) at a strength, what it shows, from which noise, and how."""

    adapter: Path | None
    strength: float
    prompt: str
    seed: int
    sample: SampleSettings


@dataclass(frozen=True)
class Drawn:
    """A picture that was drawn.

    Args:
        picture: In memory.
        file: Where it lies, with what `tlora infer --like` reads.
        ranks: How many ranks took part in each step; empty for the bare base.
    """

    picture: Image.Image
    file: Path
    ranks: tuple[int, ...]


class WarmBase:
    """A base model, loaded when first asked for.

    Args:
        spec: Which.
        max_sequence_length: T5 tokens of a prompt.
    """

    def __init__(self, spec: ModelSpec, max_sequence_length: int) -> None:
        self.spec, self._length = spec, max_sequence_length
        self._turn = threading.Lock()
        self._painter: Painter | None = None
        self._embeddings: OrderedDict[str, Embedded] = OrderedDict()

    def draw(self, wanted: Wanted, file: Path, say: Say) -> Drawn:
        """Draw one picture into a file, when nobody else uses the device.

        Args:
            wanted: What.
            file: Where it goes, a PNG.
            say: Told of what is waited for.

        Raises:
            TloraError: If anything given is wrong, or the base cannot be loaded.
        """
        require_base(self.spec)
        weights = find_weights(wanted.adapter) if wanted.adapter else None
        if weights:
            require_family(weights, self.spec)
        records = [AdapterRecord(str(weights), adapter_digest(weights), wanted.strength)] if weights else []
        setup = DrawingSetup(self.spec, (weights,) if weights else (), tuple(record.strength for record in records), self._length)
        with self._turn, hold_device(str(choose_device(self.spec)), "drawing", say):
            picture, ranks = self._draw(wanted, setup)
        described = Described(setup, tuple(records), base_revision(self.spec))
        save_picture(file, picture, described.record([Picture(wanted.prompt, wanted.seed, "")], 0, wanted.sample))
        return Drawn(picture, file, ranks)

    def _draw(self, wanted: Wanted, setup: DrawingSetup) -> tuple[Image.Image, tuple[int, ...]]:
        embeddings, empty = self._embed(setup, wanted.prompt)
        device, warm = choose_device(self.spec), self._wake()
        painter = Painter(warm.transformer, warm.vae, warm.scheduler, device, setup.strengths, empty_prompt=empty)
        try:
            if setup.adapters:
                attach_adapter(painter.transformer, setup.adapters[0])
                painter.transformer.eval()
            (picture,) = draw_pictures(painter, embeddings, [wanted.seed], wanted.sample)
            return picture, _ranks(painter, wanted.sample)
        finally:
            eject_tlora_from_transformer(painter.transformer)
            self._rest(device)

    def _embed(self, setup: DrawingSetup, prompt: str) -> Embedded:
        """Return embeddings of a prompt, and of the empty one where the base draws twice; the encoders are let go again."""
        if prompt not in self._embeddings:
            read, empty = read_prompts(setup, [prompt])
            self._embeddings[prompt] = read([prompt]), empty
            while len(self._embeddings) > MOST_PROMPTS:
                self._embeddings.popitem(last=False)
        return self._embeddings[prompt]

    def _wake(self) -> Painter:
        if self._painter is None:
            self._painter = Painter(load_transformer(self.spec).eval(), load_vae(self.spec), load_scheduler(self.spec))
        device = choose_device(self.spec)
        if device.type != "cpu" and self.spec.quantisation == "none":
            self._painter.transformer.to(device)
            self._painter.vae.to(device)
        return self._painter

    def _rest(self, device: torch.device) -> None:
        """Leave a GPU empty; quantised weights do not move, and are read again."""
        if device.type == "cpu" or self._painter is None:
            return
        if self.spec.quantisation != "none":
            self._painter = None
        else:
            self._painter.transformer.to("cpu")
            self._painter.vae.to("cpu")
        torch.cuda.empty_cache()


def _ranks(painter: Painter, sample: SampleSettings) -> tuple[int, ...]:
    """Return how many ranks took part in each step of what was drawn last."""
    configs = adapter_configs(painter.transformer)
    if not configs:
        return ()
    (mask,) = step_masks(painter.transformer, painter.scheduler.timesteps.float().cpu(), sample)
    if mask is None:
        return (configs[0].rank,) * sample.num_inference_steps
    return tuple(int(count) for count in mask.sum(1))
