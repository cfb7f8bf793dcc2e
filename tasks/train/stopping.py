"""When training ends early: once the last checkpoints look no better.

A checkpoint is measured as evaluation measures it, but small: a few pictures of training captions at fixed seeds, how much nearer
they are to the training pictures than the base's, and how far pictures without the trigger word have moved. What was measured
stands in the step's line of the log, and the decision is a function of those lines alone: a run that was killed ends at the same
step. Held-out pictures are not looked at: they are what the outcome is judged by.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tasks.train.preview import PREVIEW_SEED
from tlora.flux.cached import INDEX, LatentCache, PromptCache
from tlora.flux.model import decode_latents, load_scheduler, load_vae
from tlora.flux.spec import ModelSpec
from tlora.runtime.ranges import require_whole
from tlora.sampling import Painter, SampleSettings, draw_pictures, draws_twice, pictures_of

if TYPE_CHECKING:
    from tlora.evaluation.evaluator import PictureEncoder

GAIN, DRIFT = "similarity_gain", "drift"  # names in the log
_PICTURES = 4  # of captions, and as many without the trigger word
_REFERENCES = 16  # training pictures, at the most
T = TypeVar("T")


@dataclass(frozen=True)
class StopSettings:
    """When training ends before its last step.

    Args:
        stop_patience: Checkpoints in a row without a gain after which it ends; 0: never.
        stop_min_gain: What counts as a gain: so much more similarity to the training pictures than at the last gain.
        stop_max_drift: A checkpoint whose pictures without the trigger word have moved further has gained nothing.
        stop_evaluator: Folder or hub name of the CLIP that measures.
        stop_evaluator_revision: Its commit on the hub; empty for a folder.
    """

    stop_patience: int = 0
    stop_min_gain: float = 0.01
    stop_max_drift: float = 0.5
    stop_evaluator: str = ""
    stop_evaluator_revision: str = ""

    def __post_init__(self) -> None:
        require_whole("stop_patience", self.stop_patience, least=0)
        if not 0 <= self.stop_min_gain <= 1:
            raise ValueError(f"stop_min_gain must be in 0..1, got {self.stop_min_gain}")
        if not 0 <= self.stop_max_drift < math.inf:
            raise ValueError(f"stop_max_drift must not be negative, and finite, got {self.stop_max_drift}")
        if self.is_on and not self.stop_evaluator:
            raise ValueError("stop_patience needs stop_evaluator: the CLIP that measures checkpoints")

    @property
    def is_on(self) -> bool:
        """Whether training may end early."""
        return self.stop_patience > 0


def reason_to_stop(log: Sequence[Mapping[str, Any]], settings: StopSettings) -> str:
    """Return why training ends with the last checkpoint of a log; empty if it goes on.

    Args:
        log: Lines of training; those of checkpoints hold `similarity_gain`, and `drift` where it was measured.
        settings: What counts as a gain, and for how long none is waited for.

    Example:
        >>> log = [{"step": step, "similarity_gain": gain} for step, gain in ((10, 0.2), (20, 0.205), (30, 0.19))]
        >>> reason_to_stop(log, StopSettings(2, stop_evaluator="clip"))
        'good enough at step 30: no gain of 0.01 in 2 checkpoints, similarity gain +0.190 after +0.200 at step 10'
    """
    measured = [line for line in log if GAIN in line]
    if not settings.is_on or not measured:
        return ""
    best, at, without = 0.0, 0, 0
    for line in measured:
        if line[GAIN] >= best + settings.stop_min_gain and line.get(DRIFT, 0.0) <= settings.stop_max_drift:
            best, at, without = line[GAIN], int(line["step"]), 0
        else:
            without += 1
    if without < settings.stop_patience:
        return ""
    last = measured[-1]
    moved = f", other pictures moved by {last[DRIFT]:.2f} of at most {settings.stop_max_drift:g}" if DRIFT in last else ""
    return (
        f"good enough at step {int(last['step'])}: no gain of {settings.stop_min_gain:g} in {without} checkpoints,"
        f" similarity gain {last[GAIN]:+.3f} after {best:+.3f} at step {at}{moved}"
    )


class CheckpointMeasure:
    """Measures the adapter as it is, on pictures that are drawn for it.

    Args:
        model: Where VAE and scheduler come from.
        views: What is trained on; its decoded latents are what pictures are compared with.
        captions: Embeddings, with those of captions without the trigger word.
        settings: Which evaluator.
        num_inference_steps: Denoising steps of a picture.
    """

    def __init__(
        self, model: ModelSpec, views: LatentCache, captions: PromptCache, settings: StopSettings, num_inference_steps: int
    ) -> None:
        self._model, self._views, self._captions = model, views, captions
        self._settings, self._steps = settings, num_inference_steps
        chosen = _evenly(sorted({str(entry["caption"]) for entry in views.entries}), _PICTURES)
        of_class = [text for caption in chosen if (text := captions.class_captions.get(caption, caption)) != caption]
        self._own, self._others = _cells(chosen), _cells(list(dict.fromkeys(of_class)))
        self._eyes: "PictureEncoder | None" = None
        self._base: tuple[Tensor, Tensor] | None = None
        self._references = torch.empty(0)

    def measure(self, transformer: nn.Module) -> dict[str, float]:
        """Return how much nearer its pictures are to the training pictures than the base's, and how far others have moved.

        Args:
            transformer: With the adapter; left in training mode.
        """
        from tlora.evaluation.embedding_metrics import concept_similarity, movement
        from tlora.evaluation.evaluator import embed_pictures, load_evaluator  # transformers, which training itself does without

        vae = load_vae(self._model)
        eyes = self._eyes or load_evaluator(self._settings.stop_evaluator, self._settings.stop_evaluator_revision).pictures
        self._eyes = eyes
        painter = Painter(transformer, vae, load_scheduler(self._model), empty_prompt=self._empty())

        def look(cells: Sequence[tuple[str, int]], scale: float) -> Float[Tensor, "pictures width"]:
            drawn = [draw_pictures(painter, self._captions.read([text]), [seed], self._sample(scale))[0] for text, seed in cells]
            return embed_pictures(eyes, drawn)

        transformer.eval()
        try:
            if self._base is None:
                seen = [self._views[index].mean for index in self._chosen_views()]
                decoded = [picture for mean in seen for picture in pictures_of(decode_latents(vae, mean[None]))]
                self._references = embed_pictures(eyes, decoded)
                self._base = look(self._own, 0.0), look(self._others, 0.0) if self._others else torch.empty(0)
            own, others = look(self._own, 1.0), look(self._others, 1.0) if self._others else None
        finally:
            transformer.train()
        gained = concept_similarity(own, self._references) - concept_similarity(self._base[0], self._references)
        found = {GAIN: round(float(gained.mean()), 6)}
        if others is not None:
            found[DRIFT] = round(float(movement(others[:, None], self._base[1][:, None]).mean()), 6)
        return found

    def _empty(self) -> tuple[Tensor, Tensor] | None:
        return self._captions.read([""]) if draws_twice(self._model) else None

    def _sample(self, scale: float) -> SampleSettings:
        height, width = self._views.shapes()[0]
        factor = int(json.loads((self._views.folder / INDEX).read_text(encoding="utf-8"))["pixels_per_latent"])
        return SampleSettings(width * factor, height * factor, num_inference_steps=self._steps, lora_scale=scale)

    def _chosen_views(self) -> list[int]:
        """Return the first view of each picture, of many an even choice."""
        firsts: dict[str, int] = {}
        for index, entry in enumerate(self._views.entries):
            firsts.setdefault(str(entry["picture"]), index)
        return _evenly(list(firsts.values()), _REFERENCES)


def _evenly(items: Sequence[T], most: int) -> list[T]:
    return list(items) if len(items) <= most else [items[i * len(items) // most] for i in range(most)]


def _cells(texts: Sequence[str]) -> list[tuple[str, int]]:
    """Return texts and seeds, `_PICTURES` of them if there is any text."""
    return [(texts[i % len(texts)], PREVIEW_SEED + i // len(texts)) for i in range(_PICTURES)] if texts else []
