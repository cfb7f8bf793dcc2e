"""`tlora infer`: pictures with one adapter or several."""

import argparse
import dataclasses
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tlora.commands.config_options import add_config_options, prepare, read_config, say
from tlora.errors import SettingsError
from tlora.flux.spec import ModelSpec
from tlora.runtime.lean_imports import lean_imports
from tlora.runtime.ranges import MOST_PICTURES, MOST_STEPS, require_seed, require_strength, require_whole
from tlora.trust.settings import trust_here

if TYPE_CHECKING:
    from tlora.commands.flat_config import FlatConfig
    from tlora.drawing.draw import Picture
    from tlora.drawing.setup import DrawingSetup
    from tlora.sampling import SampleSettings

STANDARD_INPUT = Path("-")
_OPTION = re.compile(r"\s--[a-z]{1,2} \S+")  # such as --w 512, --h 512, --d 7, --s 20, --g 3.5


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_config_options(parser, required=False)
    what = parser.add_argument_group("what is drawn")
    what.add_argument("--lora_path", type=Path, nargs="+", help="adapter folders or .safetensors files; several add up")
    what.add_argument("--prompts_file", type=Path, help="text file, one prompt a line; - reads standard input")
    what.add_argument("--prompt", action="append", help="a prompt; may be given several times")
    what.add_argument("--num", type=int, default=1, help="pictures per prompt")
    what.add_argument("--seed", type=int, help="first seed of every prompt; default from the configuration")
    what.add_argument("--outdir", type=Path, help="folder for the pictures")
    what.add_argument(
        "--like", type=Path, metavar="PICTURE.png", help="draw one of these pictures again, from what it says of itself"
    )
    what.add_argument(
        "--public_key",
        type=Path,
        help="refuse adapters that are not signed with it; default: trust.public_key of the params.yaml here",
    )
    how = parser.add_argument_group("how it is drawn")
    how.add_argument("--steps", type=int, help="denoising steps; default from the configuration, else 25")
    how.add_argument("--guidance", type=float, help="guidance scale; default from the configuration")
    how.add_argument("--lora_scale", type=float, nargs="+", default=[1.0], help="strength of the adapter, or of each of several")
    how.add_argument("--ab_test", action="store_true", help="draw every seed at each of --ab_scales, and a sheet of them all")
    how.add_argument("--ab_scales", type=float, nargs="+", default=[0.0, 0.5, 1.0], help="strengths to compare")
    how.add_argument("--sigma-mask", choices=["timestep", "step_index", "full"], default="timestep", help="how ranks are chosen")
    how.add_argument("--tileable", action="store_true", help="make the edges continue each other, and show it repeated 3 x 3")
    memory = parser.add_argument_group("with how much memory and time")
    memory.add_argument("--batch", type=int, default=1, help="pictures drawn at once")
    offload = memory.add_mutually_exclusive_group()
    offload.add_argument(
        "--sequential_offload", action="store_true", help="a layer at a time on the GPU: least memory, very slow"
    )
    offload.add_argument("--model_offload", action="store_true", help="transformer and VAE take turns on the GPU")
    memory.add_argument("--merge", action="store_true", help="fold the adapter into the weights while drawing: faster, rounds")
    memory.add_argument("--force_merge", action="store_true", help="as --merge, even where rounding eats a tenth of the adapter")


def run(options: argparse.Namespace) -> None:
    """Draw."""
    if options.like:
        _draw_again(options)
        return
    _require_options(options)
    prompts = _prompts(options)
    config = read_config(options)
    sample = _sample(config, options)
    scales = options.ab_scales if options.ab_test else [1.0]
    setup = _setup(config, options)
    _require_signed(setup.adapters, options.public_key)
    pictures = _pictures(prompts, config.seed if options.seed is None else options.seed, options)
    from tlora.drawing.draw import contact_sheet, draw_to_folder

    samples = [dataclasses.replace(sample, lora_scale=scale) for scale in scales]
    drawn = draw_to_folder(setup, pictures, samples, options.outdir, options.batch, say)
    if options.ab_test:
        file = options.outdir / f"ab_sheet_steps{sample.num_inference_steps}_g{sample.guidance_scale}.png"
        contact_sheet(file, [f"{p.prompt} {p.seed}" for p in pictures], [f"scale {scale:.2f}" for scale in scales], drawn)
        say(f"{file}")


def _require_options(options: argparse.Namespace) -> None:
    missing = [f"--{name}" for name in ("config", "lora_path", "outdir") if getattr(options, name) is None]
    if missing:
        raise SettingsError(f"{', '.join(missing)} missing (only --like does without)")
    try:
        _require_numbers(options)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    if len(options.lora_scale) not in (1, len(options.lora_path)):
        raise SettingsError(f"--lora_scale: one for all adapters or one for each of {len(options.lora_path)}")


def _require_numbers(options: argparse.Namespace) -> None:
    require_whole("--num", options.num, most=MOST_PICTURES)
    require_whole("--batch", options.batch, most=MOST_PICTURES)
    if options.seed is not None:
        require_seed("--seed", options.seed)
        require_seed("--seed, and those of the pictures after it,", options.seed + options.num - 1)
    if options.steps is not None:
        require_whole("--steps", options.steps, most=MOST_STEPS)
    if options.guidance is not None:
        require_strength("--guidance", options.guidance, least=0.0)
    for name in ("lora_scale", "ab_scales"):
        for scale in getattr(options, name):
            require_strength(f"--{name}", scale)


def _setup(config: "FlatConfig", options: argparse.Namespace) -> "DrawingSetup":
    with lean_imports():
        from tlora.drawing.setup import DrawingSetup

    count = len(options.lora_path)
    given = [1.0] if options.ab_test else options.lora_scale  # a comparison puts every adapter at each of its scales
    try:
        return DrawingSetup(
            base=config.model(),
            adapters=tuple(options.lora_path),
            strengths=tuple(given * count if len(given) == 1 else given),
            max_sequence_length=config.max_sequence_length,
            offload="sequential" if options.sequential_offload else "model" if options.model_offload else "none",
            merge="forced" if options.force_merge else "yes" if options.merge else "no",
        )
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _require_signed(adapters: tuple[Path, ...], public_key: Path | None) -> None:
    """Refuse adapters without the signature that is asked for, before anything is loaded."""
    if key := public_key or trust_here().verifies_with:
        from tlora.trust.signing import verify_adapter

        for adapter in adapters:
            verify_adapter(adapter, key)


def _sample(config: "FlatConfig", options: argparse.Namespace) -> "SampleSettings":
    try:
        return dataclasses.replace(
            config.sample(),
            num_inference_steps=config.num_inference_steps if options.steps is None else options.steps,
            guidance_scale=config.guidance_scale if options.guidance is None else options.guidance,
            sigma_mask=options.sigma_mask,
            tileable=options.tileable,
        )
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _pictures(prompts: tuple[str, ...], first_seed: int, options: argparse.Namespace) -> "list[Picture]":
    with lean_imports():
        from tlora.drawing.draw import Picture

    prefix = "ab" if options.ab_test else "single"
    return [
        Picture(prompt, first_seed + i, f"{prefix}_neutraltrigger_p{p_i:02d}_img{i:02d}")
        for p_i, prompt in enumerate(prompts)
        for i in range(options.num)
    ]


def _draw_again(options: argparse.Namespace) -> None:
    with lean_imports():
        from tlora.drawing.draw import difference, redraw
        from tlora.drawing.picture_record import read_record
        from tlora.drawing.setup import DrawingSetup

    record = read_record(options.like)
    prepare(options)
    base = read_config(options).model() if options.config else ModelSpec(record.base)
    adapters = options.lora_path or [Path(adapter.path) for adapter in record.adapters]
    if len(adapters) != len(record.adapters):
        raise SettingsError(f"{options.like} was drawn with {len(record.adapters)} adapters, --lora_path names {len(adapters)}")
    setup = DrawingSetup(
        base=dataclasses.replace(base, dtype=record.dtype, quantisation=record.quantisation),
        adapters=tuple(adapters),
        strengths=tuple(adapter.strength for adapter in record.adapters),
        max_sequence_length=record.max_sequence_length,
        merge="forced" if record.merged else "no",
    )
    _require_signed(setup.adapters, options.public_key)
    file = (options.outdir or options.like.parent) / f"{options.like.stem}_again.png"
    redraw(record, setup, file, say)
    say(f"{file}: {difference(file, options.like)}")


def _prompts(options: argparse.Namespace) -> tuple[str, ...]:
    """Return the prompts of the arguments, of a file, or of standard input.

    Raises:
        SettingsError: If there is none, or they come from two places.
    """
    if options.prompt and options.prompts_file:
        raise SettingsError("give --prompt or --prompts_file, not both")
    if options.prompt:
        return _lines(options.prompt, "--prompt")
    if options.prompts_file is None and sys.stdin.isatty():
        raise SettingsError("--prompt or --prompts_file missing: say what to draw")
    if options.prompts_file in (None, STANDARD_INPUT):
        return _lines(sys.stdin.read().splitlines(), "standard input")
    try:
        return _lines(options.prompts_file.read_text(encoding="utf-8-sig").splitlines(), str(options.prompts_file))
    except UnicodeDecodeError as error:
        remedy = "save it as UTF-8 (iconv -f LATIN1 -t UTF-8)"
        raise SettingsError(f"{options.prompts_file}: not UTF-8 text (byte {error.start + 1}): {remedy}") from error
    except OSError as error:
        raise SettingsError(f"{options.prompts_file}: cannot be read: {error.strerror}") from error


def _lines(lines: list[str], where: str) -> tuple[str, ...]:
    prompts = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    for prompt in prompts:
        if option := _OPTION.search(prompt):
            raise SettingsError(
                f"{where}: {option[0].strip()!r} is an option of another tool's prompt files, and would be drawn as text:"
                " take it out; the size is the configuration's, and --seed, --steps and --guidance are said on the command line"
            )
    if not prompts:
        raise SettingsError(f"{where}: holds no prompt: one a line")
    return prompts
