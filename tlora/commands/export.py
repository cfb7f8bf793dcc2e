"""`tlora export`: an adapter as the files that other tools load."""

import argparse
from pathlib import Path

from tlora.errors import SettingsError
from tlora.runtime.ranges import LARGEST_SIDE, MOST_STEPS, require_whole

FORMATS = ("diffusers", "kohya", "authors", "bands")
_OF_BANDS = ("steps", "width", "height", "base", "max_bands")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("adapter", type=Path, help="adapter folder or .safetensors file")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        required=True,
        help="diffusers, kohya: full rank, no mask; authors: for ComfyUI-T-LoRA, which masks; bands: the mask, by step",
    )
    parser.add_argument("--out", type=Path, required=True, help="file to write; for bands, a folder")
    bands = parser.add_argument_group("bands")
    bands.add_argument("--steps", type=int, help="denoising steps that the bands are cut for")
    bands.add_argument("--width", type=int, help="of the picture in pixels; some schedulers shift by size")
    bands.add_argument("--height", type=int, help="likewise")
    bands.add_argument("--base", help="base model, for its scheduler; default: the one that the adapter names")
    bands.add_argument("--max-bands", type=int, help="at most so many; inexact, by the error that is then printed")


def run(options: argparse.Namespace) -> None:
    """Export."""
    from tlora.exchange.layers import read_layers

    if options.out.exists():
        raise SettingsError(f"{options.out}: exists: choose another name, or delete it first")
    if options.format == "bands":
        _bands(options)
        return
    given = [name for name in _OF_BANDS if getattr(options, name) is not None]
    if given:
        raise SettingsError(f"--{given[0].replace('_', '-')} is for bands, --format is {options.format}")
    from tlora.exchange.export import export_adapter, masked_by_reader

    layers, metadata = read_layers(options.adapter)
    export_adapter(layers, metadata, options.out, options.format)
    mask = "no mask: it runs at full rank at every step"
    if options.format == "authors":
        mask = f"mask {masked_by_reader(metadata)}"
    print(f"{options.out}: {len(layers)} layers, {options.format}; {mask}")


def _bands(options: argparse.Namespace) -> None:
    for name, most in (("steps", MOST_STEPS), ("width", LARGEST_SIDE), ("height", LARGEST_SIDE), ("max_bands", MOST_STEPS)):
        given = getattr(options, name)
        if given is None and name != "max_bands":
            raise SettingsError(f"bands are cut for one sampler: give --{name}, at least 1")
        try:
            require_whole(f"--{name.replace('_', '-')}", 1 if given is None else given, most=most)
        except ValueError as error:
            raise SettingsError(str(error)) from error
    from tlora.exchange.layers import read_layers
    from tlora.exchange.rank_bands import Sampler, write_bands
    from tlora.flux.files import read_family
    from tlora.flux.model import image_tokens_of, load_scheduler
    from tlora.flux.spec import ModelSpec
    from tlora.sampling import set_timesteps

    layers, metadata = read_layers(options.adapter)
    base = options.base or metadata.base
    if not base:
        raise SettingsError(f"{options.adapter} names no base model: give --base")
    spec = ModelSpec(base)
    family = read_family(spec)
    if family.name != metadata.family:
        raise SettingsError(f"{options.adapter}: trained on a base of {metadata.family}, and {base} is of {family.name}")
    tokens = image_tokens_of(spec, options.width, options.height)
    timesteps = set_timesteps(load_scheduler(spec), options.steps, tokens, family)
    sampler = Sampler(options.width, options.height, tuple(timesteps.tolist()))
    plan = write_bands(options.out, layers, metadata, sampler, options.max_bands)
    exact = "exact" if max(plan.errors) == 0 else f"inexact: at worst {max(plan.errors):.1%} of the update at a step"
    print(f"{options.out}: {len(plan.bands)} bands for {options.steps} steps, {exact}")
    for band in plan.bands:
        print(f"  {band.name}.safetensors  from step {band.first_step}")
    print(f"draw with them in diffusers: {options.out}/draw_bands.py; in ComfyUI: {options.out}/comfyui_workflow.json")
