"""Cut an adapter into standard LoRAs, one per band of ranks, which stock tools switch on step by step.

A sigma mask keeps the first ranks, so the masked update is a sum: the ranks up to the smallest one, plus those up to the next,
and so on. With a band for each rank that the schedule visits, the sum is exact. With fewer, every step uses the nearest edge,
and the manifest says what that costs.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from tlora.checkpoint import write_tensors
from tlora.errors import SettingsError
from tlora.exchange import draw_bands
from tlora.exchange.comfy_workflow import comfy_workflow, shift_of
from tlora.exchange.export import describe, diffusers_tensors
from tlora.inject import Layer
from tlora.metadata.adapter import FIRST_FAMILY, FORMAT_VERSION, AdapterMetadata
from tlora.runtime.atomic_file import write_json, write_text

MANIFEST, PLAYER, WORKFLOW = "manifest.json", "draw_bands.py", "comfyui_workflow.json"


@dataclass(frozen=True)
class Sampler:
    """What the bands are cut for: the size of a picture in pixels, and the scheduler's timestep at every step."""

    width: int
    height: int
    timesteps: tuple[float, ...]


@dataclass(frozen=True)
class Band:
    """Ranks first_rank..last_rank, counted from 1, switched on at `first_step`, counted from 0."""

    first_rank: int
    last_rank: int
    first_step: int

    @property
    def name(self) -> str:
        """Return the name of its adapter and, with an ending, of its file."""
        return f"ranks_{self.first_rank:03d}_{self.last_rank:03d}"


@dataclass(frozen=True)
class Plan:
    """The bands, the rank that the schedule asks for at every step, and the one that the bands give it.

    `errors` holds, for every step, ||wanted - given|| / ||wanted|| over all layers.
    """

    bands: tuple[Band, ...]
    wanted: tuple[int, ...]
    given: tuple[int, ...]
    errors: tuple[float, ...]


def plan_bands(
    layers: Mapping[str, Layer], metadata: AdapterMetadata, timesteps: Sequence[float], max_bands: int | None = None
) -> Plan:
    """Choose the edges of the bands.

    Args:
        layers: What `read_layers` returns.
        metadata: What describes them.
        timesteps: The scheduler's, in float32, falling.
        max_bands: At most so many; the edges are then those with the smallest sum of squared errors over the steps.

    Raises:
        SettingsError: If the adapter has no rank mask, or the number makes no sense.
    """
    if not metadata.config.enable_rank_masking:
        raise SettingsError("the adapter has no rank mask, so bands would all be on at every step: export it as diffusers")
    schedule = metadata.config.schedule(metadata.max_timestep)
    wanted = tuple(schedule.active_rank(torch.tensor(timesteps, dtype=torch.float32)).tolist())
    if list(wanted) != sorted(wanted):
        raise SettingsError("the scheduler's timesteps rise somewhere, and bands are switched on once only")
    visited = sorted(set(wanted))
    if max_bands is not None and max_bands < 1:
        raise SettingsError(f"the number of bands must be at least 1, got {max_bands}")
    energy = rank_energy(layers, metadata.config.rank)
    edges = visited if max_bands is None or max_bands >= len(visited) else _best_edges(wanted, max_bands, energy)
    given = tuple(min(edges, key=lambda edge: (_gap(energy, edge, rank), edge)) for rank in wanted)
    used = sorted(set(given))
    bands = tuple(Band(low + 1, high, given.index(high)) for low, high in zip([0, *used[:-1]], used, strict=True))
    errors = tuple((_gap(energy, g, w) / max(_gap(energy, 0, w), 1e-30)) ** 0.5 for g, w in zip(given, wanted, strict=True))
    return Plan(bands, wanted, given, errors)


def write_bands(
    folder: Path, layers: Mapping[str, Layer], metadata: AdapterMetadata, sampler: Sampler, max_bands: int | None = None
) -> Plan:
    """Write the bands, a manifest, a module that draws with them in diffusers, and a ComfyUI workflow.

    Raises:
        SettingsError: As `plan_bands`.
    """
    plan = plan_bands(layers, metadata, sampler.timesteps, max_bands)
    for band in plan.bands:
        mask = f"band: ranks {band.first_rank} to {band.last_rank}, on from step {band.first_step} of {len(sampler.timesteps)}"
        tensors = diffusers_tensors({name: _band_of(layer, band) for name, layer in layers.items()})
        write_tensors(folder / f"{band.name}.safetensors", tensors, describe(metadata, "rank band", mask))
    write_text(folder / PLAYER, Path(draw_bands.__file__).read_text(encoding="utf-8"))
    starts = [(f"{band.name}.safetensors", band.first_step) for band in plan.bands]
    shift = None if metadata.family == FIRST_FAMILY else shift_of(sampler.timesteps)
    workflow = comfy_workflow(starts, sampler.width, sampler.height, len(sampler.timesteps), metadata.trigger, shift)
    write_json(folder / WORKFLOW, workflow)
    write_json(folder / MANIFEST, _manifest(plan, metadata, sampler))
    return plan


def rank_energy(layers: Mapping[str, Layer], rank: int) -> Float[Tensor, "rank rank"]:
    """Return e with e[a:b, a:b].sum() = ||update of the ranks a+1 to b||^2 over all layers, without forming an update."""
    energy = torch.zeros(rank, rank, dtype=torch.float64)
    for layer in layers.values():
        up, down = (factor.double() for factor in layer.factors())
        products = (up.T @ up) * (down @ down.T)
        copies = products.shape[0] // rank  # 2 where learnt factors stand beside initial ones
        energy += products.reshape(copies, rank, copies, rank).sum(dim=(0, 2))
    return energy


def _gap(energy: Tensor, one: int, other: int) -> float:
    low, high = sorted((one, other))
    return max(float(energy[low:high, low:high].sum()), 0.0)


def _best_edges(wanted: Sequence[int], count: int, energy: Tensor) -> list[int]:
    """Return the edges with the smallest sum of squared errors: steps in runs, each with its own best edge."""
    visited = sorted(set(wanted))
    runs: dict[tuple[int, int], tuple[float, int]] = {}
    for start, end in itertools.combinations(range(len(visited) + 1), 2):
        costs = [
            (sum(wanted.count(rank) * _gap(energy, edge, rank) for rank in visited[start:end]), edge)
            for edge in visited[start:end]
        ]
        runs[start, end] = min(costs)
    best: dict[tuple[int, int], tuple[float, list[int]]] = {(0, 0): (0.0, [])}
    for used, end in itertools.product(range(1, count + 1), range(1, len(visited) + 1)):
        options = [
            (best[used - 1, start][0] + runs[start, end][0], [*best[used - 1, start][1], runs[start, end][1]])
            for start in range(end)
            if (used - 1, start) in best
        ]
        if options:
            best[used, end] = min(options)
    return best[count, len(visited)][1]


def _band_of(layer: Layer, band: Band) -> tuple[Tensor, Tensor]:
    up, down = layer.factors()
    rank = torch.arange(up.shape[1]) % layer.cfg.rank + 1
    kept = (rank >= band.first_rank) & (rank <= band.last_rank)
    return up[:, kept], down[kept]


def _manifest(plan: Plan, metadata: AdapterMetadata, sampler: Sampler) -> dict[str, object]:
    return {
        "format_version": FORMAT_VERSION,
        "kind": "T-LoRA rank bands",
        "base": metadata.base,
        "trigger": metadata.trigger,
        "rank": metadata.config.rank,
        "sampler": dataclasses.asdict(sampler),
        "active_ranks": plan.wanted,
        "drawn_ranks": plan.given,
        "largest_error": max(plan.errors),
        "mean_error": sum(plan.errors) / len(plan.errors),
        "unused_ranks": list(range(max(plan.wanted) + 1, metadata.config.rank + 1)),
        "bands": [{"name": band.name, "file": f"{band.name}.safetensors", **dataclasses.asdict(band)} for band in plan.bands],
    }
