"""What PEFT's settings say of a LoRA file's strength: computed as PEFT does, and refused where they say more than that.

diffusers keeps them in the header of its files, below `transformer.` for a pipeline's and bare for a transformer's own
`save_lora_adapter`; PEFT in `adapter_config.json` beside the weights.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tlora.errors import CheckpointError

HEADER, CONFIG = "lora_adapter_metadata", "adapter_config.json"
_TRANSFORMER = "transformer."
_OF_ENCODERS = ("text_encoder.", "text_encoder_2.")
_HARMLESS = {  # settings that say nothing of the update that a file holds
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules",
    "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout", "lora_ga_config",
    "megatron_config", "megatron_core", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config",
    "target_modules", "task_type",
}  # fmt: skip
_KNOWN = {"alpha_pattern", "bias", "init_lora_weights", "lora_alpha", "peft_type", "use_rslora"}
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # those that leave the base as it is


@dataclass(frozen=True)
class PeftSettings:
    """What decides the strength: PEFT's `LoraConfig`, the fields of these names."""

    lora_alpha: float = 8.0
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    use_rslora: bool = False

    def scale(self, name: str, rank: int) -> float:
        """Return what the update of a layer is multiplied by.

        Args:
            name: The layer's, as the model calls it that PEFT wrapped.
            rank: The layer's, from its tensors; PEFT loads none whose settings say another.
        """
        matching = (value for key, value in self.alpha_pattern.items() if re.match(rf"(.*\.)?({key})$", name))
        return next(matching, self.lora_alpha) / (math.sqrt(rank) if self.use_rslora else rank)  # the first, as PEFT takes it


def settings_of(file: Path, metadata: Mapping[str, str], names: tuple[str, ...]) -> PeftSettings | None:
    """Return the settings that a file carries or that lie beside it, or None.

    Args:
        file: The file.
        metadata: Its header.
        names: The names of its tensors: PEFT's own begin with `base_model.model.`.

    Raises:
        CheckpointError: If they cannot be read, or hold a setting that a T-LoRA cannot honour.
    """
    beside = file.with_name(CONFIG)
    if HEADER in metadata:
        where, text = f"{file}: {HEADER}", metadata[HEADER]
    elif beside.is_file() and any(name.startswith("base_model.model.") for name in names):
        where, text = str(beside), beside.read_text(encoding="utf-8", errors="replace")
    else:
        return None
    try:
        given = json.loads(text)
        if not isinstance(given, dict):
            raise TypeError("it is no JSON object")
        of_transformer = {key.removeprefix(_TRANSFORMER): v for key, v in given.items() if key.startswith(_TRANSFORMER)}
        return _parse(of_transformer or {k: v for k, v in given.items() if not k.startswith(_OF_ENCODERS)}, where)
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{where} cannot be read: {error}") from error


def _parse(given: Mapping[str, Any], where: str) -> PeftSettings | None:
    if not given:
        return None
    start = given.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        remedy = "save it with PEFT's path_initial_model_for_weight_conversion, which makes a plain LoRA of it"
        raise CheckpointError(
            f"{where}: init_lora_weights {start!r} changes the base, and the file alone does not say how: {remedy}"
        )
    if given.get("peft_type", "LORA") != "LORA":
        raise CheckpointError(f"{where}: peft_type {given['peft_type']!r}: no LoRA")
    if given.get("bias", "none") != "none":
        raise CheckpointError(f"{where}: bias {given['bias']!r}: it changes the base's biases, which a T-LoRA cannot")
    more = [name for name, value in given.items() if value and name not in _HARMLESS | _KNOWN]
    if more:
        raise CheckpointError(f"{where}: {more[0]} {given[more[0]]!r}: it changes what the layers compute, as a T-LoRA cannot")
    return PeftSettings(
        float(given.get("lora_alpha", 8)), _numbers(given.get("alpha_pattern") or {}), bool(given.get("use_rslora"))
    )


def _numbers(pattern: Mapping[str, Any]) -> dict[str, float]:
    for key in pattern:
        try:
            re.compile(key)
        except re.error as error:
            raise ValueError(f"{key!r} is no pattern: {error}") from error
    return {key: float(value) for key, value in pattern.items()}
