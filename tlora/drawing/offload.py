"""Draw on a GPU that is too small, by keeping on it only what computes: slow, off by default, and never silent about a wait."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import cpu_offload
from torch import nn

from tlora.inject import BLOCK_LISTS, stop_sharing

PATIENCE = 15.0  # seconds before a wait is mentioned, and between mentions
LAYERS = ["TLoRALinear", "OrthoTLoRALinear"]  # they use their weights without calling the modules that hold them
Say = Callable[[str], None]


class WaitNotifier:
    """Tells a person what is being waited for, as long as it lasts, from a thread of its own.

    Args:
        say: Where the lines go.
        patience: Seconds before a wait is mentioned, and between mentions.
    """

    def __init__(self, say: Say, patience: float = PATIENCE) -> None:
        self._say, self._patience = say, patience
        self._what, self._since, self._mentions = "", 0.0, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "WaitNotifier":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def begin(self, what: str) -> None:
        """Start a wait."""
        self._since, self._mentions, self._what = time.monotonic(), 0, what

    def end(self) -> None:
        """End the wait."""
        self._what = ""

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Wait for the length of the context."""
        self.begin(what)
        try:
            yield
        finally:
            self.end()

    def _watch(self) -> None:
        while not self._over.wait(min(self._patience, 1.0)):
            what, waited = self._what, time.monotonic() - self._since
            if what and waited >= self._patience * (self._mentions + 1):
                self._mentions += 1
                self._say(f"waiting for {what}, {waited:.0f} s so far")


def offload_layer_by_layer(transformer: nn.Module, device: torch.device, notifier: WaitNotifier) -> None:
    """Keep weights in memory and copy each layer's to the device when it computes, at every step.

    Args:
        transformer: On the CPU, with its adapters.
        device: Where it computes.
        notifier: Told of each block.
    """
    stop_sharing(transformer)
    cpu_offload(transformer, device, preload_module_classes=LAYERS)
    for name in BLOCK_LISTS:
        for number, block in enumerate(transformer.get_submodule(name).children()):
            megabytes = sum(p.numel() * p.element_size() for p in block.parameters()) / 1e6
            what = f"the weights of {name}.{number} ({megabytes:.0f} MB) on their way to {device}"
            block.register_forward_pre_hook(_Beginning(notifier, what))
            block.register_forward_hook(_Ending(notifier))


class OneAtATime:
    """Puts the model that computes next on the device, and the others on the CPU.

    Args:
        models: What takes turns, by name.
        device: Where it computes.
        notifier: Told of each move.
        say: Where a line for each move goes.
    """

    def __init__(self, models: dict[str, nn.Module], device: torch.device, notifier: WaitNotifier, say: Say) -> None:
        self._models, self._device, self._notifier, self._say = models, device, notifier, say

    def __call__(self, wanted: nn.Module) -> None:
        """Make room, then move."""
        for model in self._models.values():
            if model is not wanted:
                model.to("cpu")
        name = next(name for name, model in self._models.items() if model is wanted)
        gigabytes = sum(p.numel() * p.element_size() for p in wanted.parameters()) / 1e9
        self._say(f"model offload: waiting for the {name} ({gigabytes:.1f} GB) to reach {self._device}")
        with self._notifier.on(f"the {name} on its way to {self._device}"):
            wanted.to(self._device)


class _Beginning:
    def __init__(self, notifier: WaitNotifier, what: str) -> None:
        self._notifier, self._what = notifier, what

    def __call__(self, _module: nn.Module, _args: Any) -> None:
        self._notifier.begin(self._what)


class _Ending:
    def __init__(self, notifier: WaitNotifier) -> None:
        self._notifier = notifier

    def __call__(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        self._notifier.end()
