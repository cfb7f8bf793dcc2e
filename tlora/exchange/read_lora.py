"""Read LoRAs that other tools wrote, as plain factors: diffusers, PEFT, kohya and its kin, XLabs, the T-LoRA authors.

Every key is understood or the file is refused by that key's name, and so is every scale: a LoRA of which half is skipped, or that
comes in at half its strength, looks like one that works.
"""

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tlora.checkpoint import read_state
from tlora.errors import CheckpointError
from tlora.exchange.export import AUTHORS_NAMES, Factors
from tlora.exchange.layer_names import (
    FusedLinear,
    family_of_keys,
    find_linear,
    is_layer_name,
    is_of_text_encoder,
    without_prefix,
)
from tlora.exchange.peft_settings import PeftSettings, settings_of
from tlora.flux.families import FLUX_1, Family

LYCORIS = "LyCORIS T-LoRA"
_OF_AUTHORS = {theirs: ours for ours, theirs in AUTHORS_NAMES.items()}
_PARTS = (  # how the tensors of one layer end, and what they are
    (re.compile(r"\.lora_A(\.[\w-]+)?\.weight$"), "down"),  # PEFT's own state has the adapter's name in between
    (re.compile(r"\.lora_B(\.[\w-]+)?\.weight$"), "up"),
    (re.compile(r"\.lora(_|\.)down\.weight$"), "down"),
    (re.compile(r"\.lora(_|\.)up\.weight$"), "up"),
    (re.compile(r"\.down\.weight$"), "down"),
    (re.compile(r"\.up\.weight$"), "up"),
    (re.compile(r"\.alpha$"), "alpha"),
)
_NAMES = {"down": "lora_A.weight' or '.lora_down.weight", "up": "lora_B.weight' or '.lora_up.weight"}
_OTHER_KINDS = (  # of adapters and of what goes along with LoRAs, by what gives them away
    (r"lora_magnitude_vector|dora_scale", "DoRA"),
    (r"\.lokr_", "LoKr"),
    (r"\.hada_", "LoHa"),
    (r"\.b?oft_", "OFT"),
    (r"\.vera_lambda", "VeRA"),
    (r"\.on_input$", "IA3"),
    (r"\.lora_mid\.", "LoRA with a third factor (Tucker)"),
    (r"\.a1\.weight$", "GLoRA"),
    (r"\.lora_B(\.\w+)?\.bias$", "LoRA with biases"),
    (r"\.diff(_b)?$", "LoRA with whole differences of weights"),
    (r"norm\.scale$", "LoRA with norms of its own"),
    (r"\.scale_weight$", "LoRA in scaled float8"),
)


@dataclass(frozen=True)
class ForeignLora:
    """A file of another tool.

    Args:
        dialect: `LYCORIS`, `authors`, `XLabs`, `kohya` or `diffusers`.
        layers: up (out, n) and down (n, in) by name, every factor folded in; empty for LyCORIS T-LoRA, which needs its base.
        outside: Likewise, of Linears outside the blocks, by the file's key.
        text_encoder: Keys of a text encoder's layers, which are not read.
        tensors: The file's tensors of the blocks, as they are.
        metadata: The file's metadata.
        family: Whose Linears these are; None where several families have such.
    """

    dialect: str
    layers: dict[str, Factors]
    outside: dict[str, Factors]
    text_encoder: tuple[str, ...]
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    family: Family | None

    @property
    def is_lycoris(self) -> bool:
        """Whether it is a LyCORIS T-LoRA."""
        return self.dialect == LYCORIS

    def left_out(self) -> str:
        """Say what of the file lies outside the blocks, where no mask arrives, and how much that is; empty if nothing does."""
        said = []
        if self.outside:
            beyond, within = (sum(map(_energy, each.values())) for each in (self.outside, self.layers))
            share = f", {beyond / (beyond + within):.1%} of the update by its square"
            said.append(f"{_listed(list(self.outside))} outside FLUX's blocks{share}")
        if self.text_encoder:
            said.append(f"{_listed(list(self.text_encoder))} of a text encoder")
        return "; ".join(said)


def read_foreign(file: Path) -> ForeignLora:
    """Read a LoRA of another tool.

    Raises:
        CheckpointError: If the file cannot be read, or has a key or a scale that is not understood, naming it.
    """
    tensors, metadata = read_tensors(file)
    if "format_version" in metadata:
        raise CheckpointError(f"{file}: already an adapter of flux-tlora: give it to --lora_path as it is")
    text_encoder = tuple(sorted({_layer_of(key) for key in tensors if is_of_text_encoder(key)}))
    tensors = {key: _plain(key, tensor, file) for key, tensor in tensors.items() if not is_of_text_encoder(key)}
    if any(key.endswith(".lambda_layer") for key in tensors):
        return ForeignLora(LYCORIS, {}, {}, text_encoder, tensors, metadata, _family_of_lycoris(tensors))
    kind = kind_of(tensors)
    if kind is not None:
        raise CheckpointError(
            f"{file}: unknown key {kind[1]!r}: the file is a {kind[0]}, and cannot be written as a T-LoRA: not imported"
        )
    dialect = _dialect(tensors)
    settings = settings_of(file, metadata, tuple(tensors))
    layers: dict[str, Factors] = {}
    outside: dict[str, Factors] = {}
    grouped = _grouped(tensors, file)
    family = _family(grouped)
    for key, given in grouped.items():
        linear = _linear(key, given, family or FLUX_1, file)
        if linear is None:
            continue
        parts = _split(linear, key, _factors(key, given, settings, file), file)
        if linear.is_in_blocks:
            twice = layers.keys() & parts.keys()
            if twice:
                raise CheckpointError(f"{file}: {key}: a second LoRA for {min(twice)}")
            layers |= parts
        elif any(bool(up.any()) for up, _ in parts.values()):  # one at zero does nothing
            outside[key] = parts[linear.parts[0]]
    return ForeignLora(dialect, layers, outside, text_encoder, tensors, metadata, family)


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return what another tool's file holds, as it is.

    Raises:
        CheckpointError: If it cannot be read.
    """
    return _read_pickle(file) if file.suffix in (".pt", ".pth", ".bin") else read_state(file)


def kind_of(tensors: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Return what kind of adapter a file holds that is no plain LoRA, and the key that gives it away."""
    found = ((kind, key) for mark, kind in _OTHER_KINDS for key in tensors if re.search(mark, key))
    return next(found, None)


def pair_up(tensors: Mapping[str, Tensor], ends: tuple[str, ...], file: Path) -> dict[str, dict[str, Tensor]]:
    """Group tensors by what comes before one of the ends.

    Raises:
        CheckpointError: Naming a key with another end.
    """
    grouped: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        end = next((end for end in ends if key.endswith(end)), None)
        if end is None:
            raise CheckpointError(f"{file}: unknown key {key!r}: not imported, since nothing is skipped")
        grouped.setdefault(key.removesuffix(end), {})[end] = tensor
    return grouped


def _plain(key: str, tensor: Tensor, file: Path) -> Tensor:
    """Return a tensor in float32, of whatever floating type it was."""
    if not tensor.is_floating_point() and tensor.ndim:
        raise CheckpointError(f"{file}: {key} holds {str(tensor.dtype).removeprefix('torch.')} numbers, whose scale is not known")
    tensor = tensor.float()
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"{file}: {key} holds a value that is not finite")
    return tensor


def _dialect(tensors: Mapping[str, Tensor]) -> str:
    if any(".processor." in key for key in tensors):
        return "XLabs" if any("double_blocks." in key or "single_blocks." in key for key in tensors) else "authors"
    return "kohya" if any("lora_down" in key or "lora.down" in key for key in tensors) else "diffusers"


def _grouped(tensors: Mapping[str, Tensor], file: Path) -> dict[str, dict[str, Tensor]]:
    grouped: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        part = _part_of(key)
        if part is None:
            raise CheckpointError(f"{file}: unknown key {key!r}: not imported, since nothing is skipped")
        given = grouped.setdefault(_layer_of(key), {})
        if part in given:
            raise CheckpointError(f"{file}: {key}: a second {part} for its layer")
        given[part] = tensor
    return grouped


def _part_of(key: str) -> str | None:
    return next((part for end, part in _PARTS if end.search(key)), None)


def _layer_of(key: str) -> str:
    return next((key[: match.start()] for end, _ in _PARTS if (match := end.search(key))), key)


def _family(grouped: Mapping[str, Mapping[str, Tensor]]) -> Family | None:
    """Return the family whose layers these are, as far as names and sizes say; the authors' processors are FLUX.1's."""
    if any(".processor." in key for key in grouped):
        return FLUX_1
    whole = {key: given for key, given in grouped.items() if {"down", "up"} <= given.keys()}
    return family_of_keys(
        {key: (given["down"].shape[1:2].numel(), given["up"].shape[:1].numel()) for key, given in whole.items()}
    )


def _family_of_lycoris(tensors: Mapping[str, Tensor]) -> Family | None:
    ends = (".q_layer.weight", ".p_layer.weight")
    keys = {key.removesuffix(ends[0]) for key in tensors if key.endswith(ends[0])}
    whole = [key for key in keys if key + ends[1] in tensors]
    return family_of_keys({key: (tensors[key + ends[0]].shape[1], tensors[key + ends[1]].shape[0]) for key in whole})


def _linear(key: str, given: Mapping[str, Tensor], family: Family, file: Path) -> FusedLinear | None:
    """Return the Linear that a key means, or None for one that no forward uses, and that is at zero."""
    match = re.fullmatch(r"(?:unet\.|transformer\.)?((?:single_)?transformer_blocks\.\d+\.attn)\.processor\.(\w+)", key)
    if match is None:
        linear = find_linear(key, family)
        if linear is None:
            raise CheckpointError(f"{file}: unknown layer {key!r}: {family.name} has no Linear of that name")
        return linear
    if match[2] not in _OF_AUTHORS:
        raise CheckpointError(f"{file}: unknown layer {key!r}: only the authors' FLUX processors are known")
    name = f"{match[1]}.{_OF_AUTHORS[match[2]]}"
    if is_layer_name(name):
        return FusedLinear(name, (name,))
    if "up" in given and bool(given["up"].any()):
        raise CheckpointError(f"{file}: {key}.up.weight is not zero, and single blocks have no such layer")
    return None


def _factors(key: str, given: Mapping[str, Tensor], settings: PeftSettings | None, file: Path) -> Factors:
    """Return up and down, checked to fit each other, with the layer's scale in up."""
    for part in ("down", "up"):
        if part not in given:
            raise CheckpointError(f"{file}: missing key '{key}.{_NAMES[part]}': the file is not whole")
    down, up = given["down"], given["up"]
    if down.ndim == up.ndim == 4 and down.shape[2:] == up.shape[2:] == (1, 1):
        down, up = down[..., 0, 0], up[..., 0, 0]
    if down.ndim != 2 or up.ndim != 2 or up.shape[1] != down.shape[0] or not down.shape[0]:
        raise CheckpointError(f"{file}: {key}: up {tuple(up.shape)} and down {tuple(down.shape)} do not fit each other")
    return up * _scale(key, down.shape[0], given.get("alpha"), settings, file), down


def _scale(key: str, rank: int, alpha: Tensor | None, settings: PeftSettings | None, file: Path) -> float:
    if alpha is not None and alpha.numel() != 1:
        raise CheckpointError(f"{file}: {key}.alpha holds {alpha.numel()} numbers, must be one")
    by_tensor = None if alpha is None else float(alpha) / rank
    by_settings = None if settings is None else settings.scale(without_prefix(key), rank)
    if by_tensor is not None and by_settings is not None and abs(by_tensor - by_settings) > 1e-6 * abs(by_tensor):
        raise CheckpointError(
            f"{file}: {key}: its alpha says scale {by_tensor:g}, PEFT's settings {by_settings:g}: which is right?"
        )
    return next((scale for scale in (by_tensor, by_settings) if scale is not None), 1.0)


def _split(linear: FusedLinear, key: str, factors: Factors, file: Path) -> dict[str, Factors]:
    """Take a LoRA of one of BFL's Linears apart; a part keeps the columns between its first and its last that is not zero."""
    up, down = factors
    if len(linear.parts) == 1:
        return {linear.parts[0]: factors}
    width, odd = divmod(up.shape[0], sum(linear.shares))
    if odd:
        raise CheckpointError(f"{file}: {key} has {up.shape[0]} rows, no multiple of {sum(linear.shares)}")
    parts = {}
    for part, block in zip(linear.parts, up.split([share * width for share in linear.shares]), strict=True):
        used = block.ne(0).any(dim=0).nonzero().flatten()
        if len(used):  # a part without one is not adapted
            columns = slice(int(used[0]), int(used[-1]) + 1)
            parts[part] = (block[:, columns], down[columns])
    return parts


def _energy(factors: Factors) -> float:
    """Return the update's sum of squares, without forming it."""
    up, down = (factor.double() for factor in factors)
    return float(((up.T @ up) * (down @ down.T)).sum())


def _listed(keys: list[str]) -> str:
    return f"{len(keys)} layers ({keys[0]!r} first)" if len(keys) > 1 else f"layer {keys[0]!r}"


def _read_pickle(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the authors' `torch.save`, the only pickle that is ever opened, and nothing in it but tensors."""
    try:
        held = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().split("\n")[0][:150]
        raise CheckpointError(f"{file}: not a file of tensors alone: {reason}") from error
    if not isinstance(held, dict) or not held or not all(isinstance(t, Tensor) for t in held.values()):
        raise CheckpointError(f"{file}: must hold tensors by name, as the T-LoRA authors' lora.pt does")
    return {str(name): tensor for name, tensor in held.items()}, {}
