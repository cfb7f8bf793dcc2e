"""`tlora train`, `tlora infer`, `tlora inspect`: the adapter without the pipeline.

The only module of the library that prints, reads YAML, and looks at the environment.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tlora.errors import SettingsError, TloraError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit; whatever is wrong with what was given is one line."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if getattr(options, "hf_token", None):
        os.environ["HF_TOKEN"] = options.hf_token
    try:
        options.command(options)
    except TloraError as error:
        sys.exit(f"tlora: error: {error}")
    except OSError as error:
        sys.exit(f"tlora: error: {error.filename or ''}: {error.strerror or error}".replace(": : ", ": "))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tlora", description="Train, use and look at T-LoRA adapters for FLUX.1.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="train an adapter from a flat configuration file")
    infer = commands.add_parser("infer", help="draw pictures with an adapter")
    for command in (train, infer):
        command.add_argument("--config", type=Path, required=True, help="flat YAML file")
        command.add_argument("--hf_token", help="hub token; better in HF_TOKEN, since options can be seen in ps")
    train.set_defaults(command=_train)
    infer.add_argument("--lora_path", type=Path, required=True, help="adapter folder or .safetensors file")
    infer.add_argument("--prompts_file", type=Path, required=True, help="text file, one prompt a line")
    infer.add_argument("--outdir", type=Path, required=True, help="folder for the pictures")
    infer.add_argument("--num", type=int, default=1, help="pictures per prompt")
    infer.add_argument("--seed", type=int, help="first seed; default from the configuration")
    infer.add_argument("--steps", type=int, help="denoising steps; default from the configuration, else 25")
    infer.add_argument("--guidance", type=float, help="guidance scale; default from the configuration")
    infer.add_argument("--lora_scale", type=float, default=1.0, help="strength of the adapter")
    infer.add_argument("--ab_test", action="store_true", help="draw every seed at each of --ab_scales")
    infer.add_argument("--ab_scales", type=float, nargs="+", default=[0.0, 0.5, 1.0], help="strengths to compare")
    infer.add_argument(
        "--sequential_offload", action="store_true", help="keep weights off the GPU until used: little memory, slow"
    )
    infer.add_argument(
        "--sigma-mask", choices=["timestep", "step_index", "full"], default="timestep", help="how ranks are chosen"
    )
    infer.set_defaults(command=_infer)
    inspect = commands.add_parser("inspect", help="say what an adapter file holds, without loading a model")
    inspect.add_argument("file", type=Path, help="adapter folder or .safetensors file")
    inspect.set_defaults(command=_inspect)
    return parser


def _train(options: argparse.Namespace) -> None:
    from tlora.flat_config import read_flat_config

    config = read_flat_config(options.config)
    from tlora.single_run import train_from_config

    for line in train_from_config(config):
        print(line, flush=True)


def _infer(options: argparse.Namespace) -> None:
    from tlora.flat_config import read_flat_config

    config = read_flat_config(options.config)
    prompts = _read_prompts(options.prompts_file)
    if options.num < 1:
        raise SettingsError(f"--num must be at least 1, got {options.num}")
    from tlora.single_run import Drawing, draw_from_config

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


def _inspect(options: argparse.Namespace) -> None:
    from tlora.checkpoint import find_weights, read_adapter

    file = find_weights(options.file)
    tensors, metadata = read_adapter(file)
    facts = {"file": file, **{k: v for k, v in metadata.to_strings().items() if v}, "tensors": len(tensors)}
    facts["parameters"] = f"{sum(tensor.numel() for tensor in tensors.values()):,}"
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
    for name, tensor in tensors.items():
        print(f"  {name}  {tuple(tensor.shape)}  norm {float(tensor.float().norm()):.4g}")


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


if __name__ == "__main__":
    main()
