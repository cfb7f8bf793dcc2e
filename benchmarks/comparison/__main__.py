"""`python -m benchmarks.comparison`: every method on every concept and seed, resumable, then the page and its pictures.

Each finished run is a JSON file and a few strips of pictures in `.state`; a run that was interrupted is done again.
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.comparison.arms import ARMS, CONTROLS, preservation_of
from benchmarks.comparison.concepts import Concept, all_concepts
from benchmarks.comparison.matched import Curve, common_fidelity
from benchmarks.comparison.measures import Measures
from benchmarks.comparison.page import SHARES, comparison_page, make_sheet, matched_step
from benchmarks.comparison.runs import Run, run_missing
from benchmarks.comparison.trial import BASE, BATCH, LEARNING_RATE, SEEDS_PER_PROMPT, TARGETS
from tasks.running.state_folder import state_folder
from tasks.running.telemetry import telemetry_off
from tlora.flux.files import base_revision
from tlora.metadata.digests import digest_of
from tlora.runtime.atomic_file import write_text
from tlora.runtime.settings import read_mapping


@dataclass(frozen=True)
class Extent:
    """How much is compared."""

    concepts: tuple[Concept, ...]
    seeds: tuple[int, ...]
    steps: tuple[int, ...]


FULL = Extent(all_concepts(), (0, 1), (30, 60, 100, 160, 240))
SMOKE = Extent(all_concepts()[:1], (0,), (2,))


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.comparison", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="one concept and two steps, to see it run; the page is printed")
    parser.add_argument("--out", type=Path, default=Path("docs/comparison.md"), help="page to write, pictures beside it")
    parser.add_argument("--without-controls", action="store_true", help=f"leave out {' and '.join(sorted(CONTROLS))}")
    given = parser.parse_args()
    telemetry_off()
    extent = SMOKE if given.smoke else FULL
    folder = state_folder("comparison", _fingerprint(extent))
    arms = [arm for arm in ARMS if not (given.without_controls and arm in CONTROLS)]
    run_missing([Run(c.name, seed, arm) for c in extent.concepts for seed in extent.seeds for arm in arms], extent.steps, folder)
    page = folder / "comparison.md" if given.smoke else given.out
    text = _write(extent, arms, folder, page)
    print(text if given.smoke else f"comparison: {page}", flush=True)


def _fingerprint(extent: Extent) -> str:
    arms = {name: [type(cfg).__name__, dataclasses.asdict(cfg), preservation_of(name).preserve] for name, cfg in ARMS.items()}
    setting = [BASE.path, base_revision(BASE), arms, TARGETS, LEARNING_RATE, BATCH, SEEDS_PER_PROMPT, extent.steps]
    return digest_of(setting)[:16]


def _write(extent: Extent, arms: Sequence[str], folder: Path, page: Path) -> str:
    steps = (0, *extent.steps)
    curves = {c.name: {arm: _curve(extent, folder, c, arm, steps) for arm in arms} for c in extent.concepts}
    pictures = page.parent / "pictures" / page.stem
    pictures.mkdir(parents=True, exist_ok=True)
    sheets = {}
    for concept in extent.concepts:
        level = common_fidelity(curves[concept.name], SHARES[0])
        if level is None:
            continue
        strips = {}
        for arm, curve in curves[concept.name].items():
            step = matched_step(curve, steps, level)
            strips[f"{arm}, step {step}"] = Image.open(Run(concept.name, extent.seeds[0], arm).strip(folder, step))
        base = Image.open(folder / f"base-{extent.seeds[0]}.png")
        make_sheet(Image.fromarray(concept.picture("wall", 0)), base, strips).save(
            pictures / f"{concept.name}.png", optimize=True
        )
        sheets[concept.name] = f"pictures/{page.stem}/{concept.name}.png"
    text = comparison_page(curves, steps, len(extent.seeds), sheets, base_revision(BASE))
    write_text(page, text)
    return text


def _curve(extent: Extent, folder: Path, concept: Concept, arm: str, steps: Sequence[int]) -> Curve:
    """Return the mean curve over seeds."""
    runs: list[Mapping[str, Mapping[str, float]]] = [
        read_mapping(Run(concept.name, seed, arm).result(folder), "a finished run", "") for seed in extent.seeds
    ]
    names = [field.name for field in dataclasses.fields(Measures)]
    return {name: [float(np.mean([run[str(step)][name] for run in runs])) for step in steps] for name in names}


if __name__ == "__main__":
    main()
