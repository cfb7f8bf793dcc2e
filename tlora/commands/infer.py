"""`tlora infer`: pictures with an adapter."""

import argparse
import dataclasses
from pathlib import Path

from tlora.commands.config_options import add_config_options, use_token
from tlora.errors import SettingsError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_config_options(parser)
    parser.add_argument("--lora_path", type=Path, required=True, help="adapter folder or .safetensors file")
    parser.add_argument("--prompts_file", type=Path, required=True, help="text file, one prompt a line")
    parser.add_argument("--outdir", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--num", type=int, default=1, help="pictures per prompt")
    parser.add_argument("--seed", type=int, help="first seed; default from the configuration")
    parser.add_argument("--steps", type=int, help="denoising steps; default from the configuration, else 25")
    parser.add_argument("--guidance", type=float, help="guidance scale; default from the configuration")
    parser.add_argument("--lora_scale", type=float, default=1.0, help="strength of the adapter")
    parser.add_argument("--ab_test", action="store_true", help="draw every seed at each of --ab_scales")
    parser.add_argument("--ab_scales", type=float, nargs="+", default=[0.0, 0.5, 1.0], help="strengths to compare")
    parser.add_argument(
        "--sequential_offload", action="store_true", help="keep weights off the GPU until used: little memory, slow"
    )
    parser.add_argument(
        "--sigma-mask", choices=["timestep", "step_index", "full"], default="timestep", help="how ranks are chosen"
    )


def run(options: argparse.Namespace) -> None:
    """Draw."""
    from tlora.flat_config import read_flat_config

    use_token(options)
    config = read_flat_config(options.config)
    prompts = _read_prompts(options.prompts_file)
    if options.num < 1:
        raise SettingsError(f"--num must be at least 1, got {options.num}")
    from tlora.drawing import Drawing, draw_from_config

    try:
        sample = dataclasses.replace(
            config.sample(),
            num_inference_steps=config.num_inference_steps if options.steps is None else options.steps,
            guidance_scale=config.guidance_scale if options.guidance is None else options.guidance,
            sigma_mask=options.sigma_mask,
        )
    except ValueError as error:
        raise SettingsError(str(error)) from error
    drawing = Drawing(
        prompts=prompts,
        count=options.num,
        first_seed=config.seed if options.seed is None else options.seed,
        scales=tuple(options.ab_scales) if options.ab_test else (options.lora_scale,),
        prefix="ab" if options.ab_test else "single",
        sequential_offload=options.sequential_offload,
    )
    for line in draw_from_config(config, options.lora_path, options.outdir, sample, drawing):
        print(line, flush=True)


def _read_prompts(path: Path) -> tuple[str, ...]:
    """Return the lines that hold a prompt.

    Raises:
        SettingsError: If the file is missing, not UTF-8, or empty.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not UTF-8: save it as UTF-8") from error
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise SettingsError(f"{path}: holds no prompt: one a line")
    return prompts
