"""What an adapter was made from and measured with, in words; every line is a function of the inputs alone."""

from collections.abc import Mapping
from typing import Any

from tlora.metadata.adapter import AdapterMetadata
from tlora.pictures.manifest import Manifest


def rank_schedule(metadata: AdapterMetadata) -> str:
    """Return the rank schedule in words."""
    config = metadata.config
    if not config.enable_rank_masking:
        return f"{config.trainer_type}, rank {config.rank} at every timestep"
    return (
        f"{config.trainer_type}, rank {config.min_rank} at timestep {metadata.max_timestep:g} to {config.rank} at 0,"
        f" exponent {config.alpha_rank_scale:g}"
    )


def adapter_lineage(metadata: AdapterMetadata) -> dict[str, str]:
    """Return what an adapter was trained on and with."""
    return {
        "Base model": metadata.base,
        "Family": metadata.family,
        "Base revision": metadata.base_revision,
        "Rank schedule": rank_schedule(metadata),
        "Data digest": metadata.data_digest,
        "Parameters digest": metadata.params_digest,
        "Code digest": metadata.code_digest,
    }


def evaluation_lineage(setup: Mapping[str, Any], train: Manifest, held_out: Manifest) -> dict[str, str]:
    """Return what an evaluation drew and measured with.

    Args:
        setup: What reports/evaluate/evaluate.json holds under that name.
        train: Training pictures.
        held_out: Held-out pictures.
    """
    return {
        "Evaluator": str(setup.get("evaluator", "")),
        "DINOv2": str(setup.get("dinov2", "")),
        "Second opinion": str(setup.get("second_opinion", "")),
        "Training pictures": f"{len(train.items)}, manifest {train.digest}",
        "Held-out pictures": f"{len(held_out.items)}, manifest {held_out.digest}",
        "Seeds": ", ".join(str(seed) for seed in setup.get("seeds", [])),
        "Drawing": listing(setup.get("drawing", {})),
    }


def listing(values: Mapping[str, Any]) -> str:
    """Return names and values in a line.

    Example:
        >>> listing({"width": 64, "height": 32})
        'height 32, width 64'
    """
    return ", ".join(f"{name} {value}" for name, value in sorted(values.items()))
