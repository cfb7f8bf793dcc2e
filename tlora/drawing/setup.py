"""What pictures are drawn with: base, adapters and their strengths, offload, merging; and how all of it is made ready."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from torch import Tensor

from tlora.checkpoint import attach_adapter
from tlora.drawing.offload import OneAtATime, WaitNotifier, offload_layer_by_layer
from tlora.flux.model import choose_device, load_scheduler, load_transformer, load_vae
from tlora.flux.spec import ModelSpec
from tlora.merge import merged_weights
from tlora.sampling import Painter

Say = Callable[[str], None]


@dataclass(frozen=True)
class DrawingSetup:
    """What is drawn with.

    Args:
        base: The base model.
        adapters: One or more, folders or files.
        strengths: Of each adapter, as a share of the sample's `lora_scale`.
        max_sequence_length: Tokens of a prompt.
        offload: What leaves the GPU while it does not compute: nothing, whole `model`s, or layers `sequential`ly.
        merge: Fold the adapter into the weights; `forced` even where rounding eats much of it.
    """

    base: ModelSpec
    adapters: tuple[Path, ...]
    strengths: tuple[float, ...]
    max_sequence_length: int
    offload: Literal["none", "model", "sequential"] = "none"
    merge: Literal["no", "yes", "forced"] = "no"

    def __post_init__(self) -> None:
        if len(self.strengths) != len(self.adapters):
            raise ValueError(f"{len(self.adapters)} adapters need as many scales, got {len(self.strengths)}")
        if self.merge != "no" and (len(self.adapters) > 1 or self.offload == "sequential"):
            raise ValueError("merging takes one adapter, and weights that are not offloaded sequentially")
        if self.base.quantisation != "none" and (self.merge != "no" or self.offload == "sequential"):
            raise ValueError("merging and sequential offload take a base that is not quantised: quantisation: none")


@contextmanager
def open_painter(setup: DrawingSetup, empty_prompt: tuple[Tensor, Tensor] | None, say: Say) -> Iterator[Painter]:
    """Lend what draws, with the adapters attached, and say what is waited for meanwhile."""
    with WaitNotifier(say) as notifier:
        yield dataclasses.replace(_load_painter(setup, notifier, say), empty_prompt=empty_prompt)


@contextmanager
def merged_where_wanted(setup: DrawingSetup, painter: Painter, draw: Callable[[], list[Image.Image]], say: Say) -> Iterator[None]:
    """Fold the adapter into the weights for the length of the context, and say what that changes about what `draw` draws.

    Raises:
        MergeError: If rounding would eat too much of the adapter, and it was not forced.
    """
    if setup.merge == "no":
        yield
        return
    reference = draw()
    with merged_weights(painter.transformer, force=setup.merge == "forced") as loss:
        furthest = max(furthest_apart(one, other) for one, other in zip(reference, draw(), strict=True))
        say(f"adapter merged into the weights: {loss}; the first picture differs by {furthest} of 255 at most from unmerged")
        yield


def furthest_apart(one: Image.Image, other: Image.Image) -> int:
    """Return the largest difference of any channel of any pixel, of 255."""
    return int(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max())


def _load_painter(setup: DrawingSetup, notifier: WaitNotifier, say: Say) -> Painter:
    device = choose_device(setup.base)
    held = setup.base if setup.offload == "none" else dataclasses.replace(setup.base, device="cpu")
    with notifier.on(f"the transformer of {setup.base.path} to be read from disk"):
        transformer = load_transformer(held).eval()
    for slot, path in enumerate(setup.adapters):
        attach_adapter(transformer, path, slot)
    transformer.eval()
    vae = load_vae(held if setup.offload == "model" else setup.base)
    make_room = None
    if setup.offload == "model":
        make_room = OneAtATime({"transformer": transformer, "VAE": vae}, device, notifier, say)
    elif setup.offload == "sequential":
        say(
            f"sequential offload: every layer waits for its weights to be copied to {device}, at every step; expect it to be slow"
        )
        offload_layer_by_layer(transformer, device, notifier)
    return Painter(transformer, vae, load_scheduler(setup.base), device, setup.strengths, make_room)
