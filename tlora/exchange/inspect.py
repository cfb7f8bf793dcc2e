"""What an adapter file holds, as facts and a table, without a model: ours in full, other tools' as far as they say."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from tlora.exchange.export import Factors
from tlora.exchange.layers import read_layers
from tlora.exchange.read_lora import kind_of, read_foreign, read_tensors
from tlora.metadata.adapter import AdapterMetadata, adapter_digest, find_weights, is_ours

_STATED = (
    "family", "base", "base_revision", "base_quantisation", "concept", "trigger", "step",
    "data_digest", "params_digest", "code_digest",
)  # fmt: skip
_TABLE = ("layer", "in", "out", "ranks", "norm", "effective rank")


def report(path: Path) -> Iterator[str]:
    """Yield the lines of a report.

    Raises:
        CheckpointError: If the file cannot be trusted or is not understood.
    """
    file = find_weights(path)
    if is_ours(file):
        layers, metadata = read_layers(file)
        factors = {name: layer.factors() for name, layer in layers.items()}
        facts = _facts(metadata)
    else:
        factors, facts = _foreign(file)
    facts |= {"file": str(file), "sha256": adapter_digest(file), "layers": facts.get("layers", str(len(factors)))}
    width = max(map(len, facts))
    for name, value in facts.items():
        yield f"{name:<{width}}  {value}"
    if factors:
        yield ""
        yield from _table(factors)


def _foreign(file: Path) -> tuple[dict[str, Factors], dict[str, str]]:
    """Return layers and facts of another tool's file; of an adapter that is no LoRA, what it is."""
    tensors, metadata = read_tensors(file)
    kind = kind_of(tensors)
    if kind is not None:
        return {}, metadata | {
            "format": f"{kind[0]}, by its key {kind[1]!r}",
            "tensors": str(len(tensors)),
            "numbers": str(sum(tensor.numel() for tensor in tensors.values())),
            "layers": "not shown: its update is no product of two factors with ranks to mask, so 'tlora import' refuses it",
        }
    foreign = read_foreign(file)
    facts = foreign.metadata | {"format": foreign.dialect}
    if foreign.family is not None:
        facts["family"] = foreign.family.name
    if foreign.is_lycoris:
        facts["layers"] = "norms and ranks need the base: 'tlora import' takes it"
    if foreign.left_out():
        facts["not importable"] = f"{foreign.left_out()}: 'tlora import --skip-outside' leaves it out"
    return foreign.layers | foreign.outside, facts


def effective_rank(factors: Factors) -> float:
    """Return how many ranks the update is worth: e to the entropy of its singular values, 1 to n, or 0 if it is zero.

    Source:
        Roy and Vetterli, "The effective rank" (EUSIPCO 2007). The singular values come from the small factors of two QRs.
    """
    values = _singular_values(factors)
    if not bool(values.any()):
        return 0.0
    shares = values / values.sum()
    return math.exp(-float(torch.xlogy(shares, shares).sum()))


def _singular_values(factors: Factors) -> Tensor:
    up, down = (factor.double() for factor in factors)
    return torch.linalg.svdvals(torch.linalg.qr(up).R @ torch.linalg.qr(down.T).R.T)


def _facts(metadata: AdapterMetadata) -> dict[str, str]:
    cfg = metadata.config
    ranks = f"{cfg.min_rank} at timestep {metadata.max_timestep:g} to {cfg.rank} at 0, exponent {cfg.alpha_rank_scale:g}"
    strings = {"family": metadata.family, **metadata.to_strings()}
    return {
        "format": f"T-LoRA adapter, version {strings['format_version']}, readable since {strings['readable_since']}",
        "type": cfg.trainer_type + (f", {cfg.sig_type} of {cfg.svd_source}" if cfg.trainer_type == "ortho_lora" else ""),
        "rank": str(cfg.rank),
        "alpha": f"{cfg.alpha:g}",
        "schedule": ranks if cfg.enable_rank_masking else "none: full rank at every step",
        **{name: strings[name] for name in _STATED if strings[name]},
        "target_modules": _shortened(metadata.target_modules),
    }


def _shortened(names: tuple[str, ...], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _table(factors: Mapping[str, Factors]) -> Iterator[str]:
    rows = [_TABLE]
    for name, (up, down) in sorted(factors.items()):
        norm = float(_singular_values((up, down)).square().sum().sqrt())
        shape = (str(down.shape[1]), str(up.shape[0]), str(down.shape[0]))
        rows.append((name, *shape, f"{norm:.4g}", f"{effective_rank((up, down)):.1f}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_TABLE))]
    for row in rows:
        first, *rest = (cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        yield "  ".join([first, *rest])
