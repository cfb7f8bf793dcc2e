"""Optimizers from well-kept libraries, learning-rate schedules as plain functions of the step, and their state as tensors."""

import importlib.util
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tlora.errors import SettingsError
from tlora.runtime.settings import require_choices

_NESTED = "/"
RATES = {"adamw": (0.0, 1.0), "adamw8bit": (0.0, 1.0), "prodigy": (0.1, 10.0)}  # usual: 1e-5 to 1e-2, and 1 for prodigy
_PACKAGES = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt"}


@dataclass(frozen=True)
class OptimizerSettings:
    """How the adapter's parameters are moved.

    Args:
        optimizer: `adamw`, `adamw8bit` (needs bitsandbytes) or `prodigy` (needs prodigyopt; learning_rate 1.0 is usual).
        learning_rate: Peak learning rate.
        lr_schedule: `constant`, `cosine` or `linear` (both to 0) after the warm-up.
        lr_warmup_steps: Steps over which the rate grows linearly from 0.
        adam_beta1: Decay of the first moment.
        adam_beta2: Decay of the second moment.
        adam_weight_decay: Decoupled weight decay.
        adam_epsilon: Added to the denominator.
        max_grad_norm: Gradients are clipped to this norm; 0 clips nothing.
    """

    learning_rate: float
    optimizer: Literal["adamw", "adamw8bit", "prodigy"] = "adamw"
    lr_schedule: Literal["constant", "cosine", "linear"] = "constant"
    lr_warmup_steps: int = 0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_weight_decay: float = 0.0
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        require_choices(self)
        if not (0 < self.learning_rate < math.inf):
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        _require_rate_of(self.optimizer, self.learning_rate)
        for name, beta in (("adam_beta1", self.adam_beta1), ("adam_beta2", self.adam_beta2)):
            if not 0 <= beta < 1:
                raise ValueError(f"{name} must be in [0, 1), got {beta}")
        for name, amount in (
            ("lr_warmup_steps", self.lr_warmup_steps),
            ("adam_weight_decay", self.adam_weight_decay),
            ("max_grad_norm", self.max_grad_norm),
        ):
            if not (0 <= amount < math.inf):
                raise ValueError(f"{name} must not be negative, got {amount}")
        if not (0 < self.adam_epsilon < math.inf):
            raise ValueError(f"adam_epsilon must be positive, got {self.adam_epsilon}")


def _require_rate_of(optimizer: str, rate: float) -> None:
    """Refuse another optimizer's rate: each would end without an error and with nothing learnt, or with noise."""
    least, most = RATES[optimizer]
    if rate < least:
        raise ValueError(
            f"learning_rate {rate:g} is an AdamW's, and {optimizer} multiplies a rate that it finds itself by it: set it to 1.0"
        )
    if rate > most:
        raise ValueError(f"learning_rate {rate:g} is more than {optimizer} can learn with: at most {most:g}")


def require_optimizer(settings: OptimizerSettings) -> None:
    """Check that the optimizer's library is installed, without importing it.

    Raises:
        SettingsError: Naming the package.
    """
    package = _PACKAGES.get(settings.optimizer)
    if package and importlib.util.find_spec(package) is None:
        raise SettingsError(f"optimizer {settings.optimizer!r} needs the package {package}: pip install 'flux-tlora[optimizers]'")


def build_optimizer(parameters: Sequence[nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Return the optimizer that the settings name, over the adapter's parameters only.

    Raises:
        SettingsError: If its library is not installed.
    """
    betas = (settings.adam_beta1, settings.adam_beta2)
    rate, decay, epsilon = settings.learning_rate, settings.adam_weight_decay, settings.adam_epsilon
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, betas=betas, weight_decay=decay, eps=epsilon, fused=True)
    try:
        if settings.optimizer == "adamw8bit":
            from bitsandbytes.optim import AdamW8bit

            return AdamW8bit(parameters, lr=rate, betas=betas, weight_decay=decay, eps=epsilon)
        from prodigyopt import Prodigy

        return Prodigy(parameters, lr=rate, betas=betas, weight_decay=decay, eps=epsilon)
    except ImportError as error:
        raise SettingsError(
            f"optimizer {settings.optimizer!r} needs the package {error.name}: pip install 'flux-tlora[optimizers]'"
        ) from error


def learning_rate(settings: OptimizerSettings, step: int, steps: int) -> float:
    """Return the learning rate of a step, counted from 0.

    Example:
        >>> learning_rate(OptimizerSettings(learning_rate=1.0, lr_warmup_steps=4), step=1, steps=10)
        0.5
    """
    if step < settings.lr_warmup_steps:
        return settings.learning_rate * (step + 1) / settings.lr_warmup_steps
    progress = (step - settings.lr_warmup_steps) / max(1, steps - settings.lr_warmup_steps)
    if settings.lr_schedule == "cosine":
        return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
    return settings.learning_rate * (1 - progress if settings.lr_schedule == "linear" else 1.0)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], str]:
    """Split an optimizer's state into tensors and JSON, so that it can be kept without pickle."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {"param_groups": state["param_groups"], "state": {}}
    for index, values in state["state"].items():
        for name, value in _flat(values):
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                plain["state"].setdefault(str(index), {})[name] = value
    return tensors, json.dumps(plain, sort_keys=True)


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], plain: str) -> None:
    """Undo `optimizer_tensors`."""
    parsed = json.loads(plain)
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in parsed["state"].items()}
    for key, tensor in tensors.items():
        _, index, name = key.split(".", 2)
        *outer, inner = name.split(_NESTED)
        values = state.setdefault(int(index), {})
        for part in outer:
            values = values.setdefault(part, {})
        values[inner] = tensor.clone()
    optimizer.load_state_dict({"state": state, "param_groups": parsed["param_groups"]})


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield names and values; bitsandbytes keeps its quantised moments in a mapping inside the mapping."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}{_NESTED}")
        else:
            yield prefix + name, value
