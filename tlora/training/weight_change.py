"""How much an adapter changes the weights it wraps: the answer to "does it do anything?"."""

import math
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tlora.errors import TrainingError
from tlora.flux.quantise import plain_weight
from tlora.inject import Layer, adapter_layers

# Working runs lie between 1e-3 and 0.6. On the pocket, at step 50: 8-bit AdamW at 1e-3 0.03 to 0.06, Prodigy 0.20 to 0.34 (and
# 0.30 to 0.59 at step 200).
BELIEVED = (1e-5, 1.0)


def relative_change(transformer: nn.Module) -> dict[str, float]:
    """Return ||update|| / ||weight|| at full rank and scale 1, the mean over the layers of each kind.

    A kind is the end of a layer's name, such as `attn.to_q`. Layers whose base was quantised elsewhere are left out: their
    weight cannot be measured as it stands.
    """
    changes: dict[str, list[float]] = defaultdict(list)
    for name, layer in adapter_layers(transformer).items():
        weight = plain_weight(layer.base)
        if weight is not None:
            changes[_kind(name)].append(float(update_norm(layer) / weight.norm()))
    return {kind: sum(values) / len(values) for kind, values in sorted(changes.items())}


def update_norm(layer: Layer) -> Tensor:
    """Return the Frobenius norm of up @ down without forming the product."""
    up, down = (factor.double() for factor in layer.factors())  # ortho factors all but cancel
    return torch.sqrt(((up.T @ up) * (down @ down.T)).sum().clamp(min=0))


def _kind(name: str) -> str:
    """Drop the block list and the block's number: `transformer_blocks.0.attn.to_q` -> `attn.to_q`."""
    return name.split(".", 2)[2]


def check_effect(change: Mapping[str, float], step: int, believed: tuple[float, float] = BELIEVED, section: str = "") -> str:
    """Return a line about the adapter's effect on the weights so far.

    Args:
        change: Relative change of the weights by kind of layer; empty where all are quantised and none can be measured.
        step: When it was measured.
        believed: Between which changes an adapter is taken to be learning.
        section: Of params.yaml with its point, where the run's settings come from there.

    Raises:
        TrainingError: If nothing has changed, or next to nothing, or a change is not finite or beyond belief.
    """
    least, limit = believed
    if change and all(value == 0 for value in change.values()):
        raise TrainingError(
            f"step {step}: no weight has changed at all: raise {section}learning_rate, or adapt other layers"
            f" ({section}target_modules)"
        )
    for kind, value in change.items():
        if not math.isfinite(value):
            raise TrainingError(f"step {step}: the update of {kind} is {value}: lower {section}learning_rate")
        if value > limit:
            raise TrainingError(
                f"step {step}: the update of {kind} is {value:.3g} times its weight, more than {_named('max', limit, section)}:"
                f" lower {section}learning_rate"
            )
    if change and (most := max(change, key=lambda kind: change[kind])) and change[most] < least:
        raise TrainingError(
            f"step {step}: no update is more than {change[most]:.2g} of its weight ({most}), less than"
            f" {_named('min', least, section)}, so nothing is being learnt: raise {section}learning_rate"
        )
    listed = ", ".join(f"{kind} {value:.3%}" for kind, value in change.items())
    return f"step {step}: relative weight change {listed or 'unknown, all layers are quantised'}"


def _named(which: str, value: float, section: str) -> str:
    return f"{section}{which}_relative_change ({value:g})" if section else f"is believed ({value:g})"
