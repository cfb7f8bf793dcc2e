"""A training loop by step counts that can be killed at any moment and continues to the same bits.

Randomness is drawn anew at every step from (seed, step), and the whole state is one safetensors file, written under a
temporary name and renamed.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

SAVE_EVERY_SECONDS = 60.0
LOG_EVERY_STEPS = 100


@dataclass(frozen=True)
class Draw:
    """The random sources of one step, functions of (seed, step) alone."""

    numpy: np.random.Generator
    torch: torch.Generator

    @staticmethod
    def at(seed: int, step: int) -> "Draw":
        """Return the sources of one step."""
        numpy = np.random.default_rng([seed, step])
        source = torch.Generator(torch.get_default_device())
        return Draw(numpy, source.manual_seed(int(numpy.integers(1 << 62))))


@dataclass(frozen=True)
class Recipe:
    """How one network is trained: steps, peak learning rate, decay and averaging."""

    name: str
    seed: int
    steps: int
    learning_rate: float
    weight_decay: float
    averaging: float
    warmup: int = 50
    flat_share: float = 0.0
    muon: bool = False  # for the weights of inner Linears; the rest keeps AdamW

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: linear warm-up, flat, then a cosine to 2 % of the peak."""
        progress = step / self.steps
        decay = max(0.0, (progress - self.flat_share) / (1 - self.flat_share))
        return self.learning_rate * min(1.0, (step + 1) / self.warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * decay)))


class Learner:
    """The parameters of some modules, their optimizers and their running average."""

    def __init__(self, modules: list[nn.Module], recipe: Recipe) -> None:
        self.recipe = recipe
        self.parameters = [p for module in modules for p in module.parameters()]
        matrices = inner_matrices(modules) if recipe.muon else []
        held = {id(p) for p in matrices}
        rest = [p for p in self.parameters if id(p) not in held]
        rate, decay = recipe.learning_rate, recipe.weight_decay
        self.optimizers: list[Optimizer] = [AdamW(rest, lr=rate, weight_decay=decay, betas=(0.9, 0.98), fused=True)]
        if matrices:
            self.optimizers.append(Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
        self.average = [p.detach().clone() for p in self.parameters]
        self.step = 0

    def update(self, loss: Tensor) -> None:
        """Take one optimizer step and move the running average."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.recipe.rate(self.step)
            optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        with torch.no_grad():
            weight = 1 - min(self.recipe.averaging, self.step / (self.step + 30))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], weight)

    def adopt_average(self) -> None:
        """Put the running average in place of the parameters, at the end of training."""
        with torch.no_grad():
            for parameter, mean in zip(self.parameters, self.average, strict=True):
                parameter.copy_(mean)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Lend the running average to the modules, for a look at the middle of training."""
        kept = [p.detach().clone() for p in self.parameters]
        self.adopt_average()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.parameters, kept, strict=True):
                    parameter.copy_(value)

    def save(self, path: Path) -> None:
        """Write everything that continuing needs, whole or not at all."""
        tensors = {"step": torch.tensor(self.step)}
        for i, parameter in enumerate(self.parameters):
            kept = {"parameter": parameter.detach(), "average": self.average[i], **self._owner(parameter).state[parameter]}
            tensors |= {f"{name}.{i}": tensor.contiguous() for name, tensor in kept.items()}
        temporary = path.with_suffix(".partial")
        save_file(tensors, temporary)
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        """Continue from a file that `save` wrote."""
        tensors = load_file(path, device=str(torch.get_default_device()))
        self.step = int(tensors.pop("step"))
        with torch.no_grad():
            for key, tensor in tensors.items():
                name, number = key.rsplit(".", 1)
                parameter = self.parameters[int(number)]
                if name == "parameter":
                    parameter.copy_(tensor)
                elif name == "average":
                    self.average[int(number)].copy_(tensor)
                else:
                    self._owner(parameter).state[parameter][name] = tensor.clone()

    def _owner(self, parameter: Tensor) -> Optimizer:
        """Return the optimizer that a parameter belongs to."""
        return next(o for o in self.optimizers if any(parameter is p for group in o.param_groups for p in group["params"]))


def inner_matrices(modules: list[nn.Module]) -> list[Tensor]:
    """Return the weights of all Linears but those that take in or give out: what Muon, which makes updates orthogonal, is for."""
    return [
        layer.weight
        for module in modules
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and "embed" not in name and name != "proj_out"
    ]


def train(learner: Learner, loss_at: Callable[[int, Draw], Tensor], folder: Path) -> None:
    """Train to the recipe's last step, continuing from `folder/<name>.safetensors` if it exists.

    Args:
        learner: What is trained.
        loss_at: The loss of a step, given its number and its random sources.
        folder: Where the state is kept.
    """
    recipe, state = learner.recipe, folder / f"{learner.recipe.name}.safetensors"
    if state.exists():
        learner.load(state)
    started, saved, first, losses = time.monotonic(), time.monotonic(), learner.step, []
    while learner.step < recipe.steps:
        loss = loss_at(learner.step, Draw.at(recipe.seed, learner.step))
        learner.update(loss)
        losses.append(loss.item())
        if learner.step % LOG_EVERY_STEPS == 0 or learner.step == recipe.steps:
            pace = (time.monotonic() - started) / (learner.step - first)
            left = pace * (recipe.steps - learner.step)
            print(
                f"{recipe.name}: step {learner.step}/{recipe.steps} loss {np.mean(losses):.4f}"
                f" {pace:.3f} s/step, {left / 60:.1f} min left",
                flush=True,
            )
            losses = []
        if time.monotonic() - saved > SAVE_EVERY_SECONDS or learner.step == recipe.steps:
            learner.save(state)
            saved = time.monotonic()
    learner.adopt_average()
