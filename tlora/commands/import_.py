"""`tlora import`: an adapter of another tool's LoRA."""

import argparse
from pathlib import Path

from tlora.errors import CheckpointError, SettingsError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "file",
        type=Path,
        help="LoRA of diffusers, PEFT, kohya, ComfyUI, OneTrainer or XLabs, or T-LoRA of LyCORIS or its authors",
    )
    parser.add_argument("--out", type=Path, required=True, help="adapter folder to write")
    parser.add_argument("--min-rank", type=int, help="ranks in pure noise, as it was trained; without it, no mask")
    parser.add_argument("--alpha-rank-scale", type=float, default=1.0, help="exponent of the rank formula, as it was trained")
    parser.add_argument(
        "--skip-outside",
        action="store_true",
        help="leave out what lies outside the blocks, where no mask arrives, and text encoders",
    )
    parser.add_argument(
        "--sig-type",
        choices=["principal", "last", "middle"],
        default="principal",
        help="LyCORIS T-LoRA: singular vectors of the base that it started from; the file does not say",
    )
    parser.add_argument("--base", default="", help="base model; needed for LyCORIS T-LoRA, whose files lack the initial factors")
    parser.add_argument("--trigger", default="", help="trigger word")
    parser.add_argument("--concept", default="", help="name of the concept")


def run(options: argparse.Namespace) -> None:
    """Import."""
    from tlora.exchange.read_lora import read_foreign
    from tlora.exchange.to_tlora import Schedule, import_lycoris, import_plain
    from tlora.flux.families import FLUX_1
    from tlora.flux.files import base_revision, read_family
    from tlora.flux.spec import ModelSpec
    from tlora.metadata.adapter import WEIGHTS_FILE, AdapterMetadata
    from tlora.metadata.config import TLoRAConfig

    target = options.out / WEIGHTS_FILE
    if target.exists():
        raise SettingsError(f"{target}: exists: choose another folder, or delete it first")
    foreign = read_foreign(options.file)
    if foreign.left_out() and not options.skip_outside:
        raise CheckpointError(
            f"{options.file}: holds {foreign.left_out()}, where no rank mask arrives: --skip-outside leaves it out"
        )
    schedule = Schedule(options.min_rank, options.alpha_rank_scale)
    base = ModelSpec(options.base) if options.base else None
    family = foreign.family or (read_family(base) if base else FLUX_1)
    if base and base.is_folder and read_family(base) is not family:
        raise CheckpointError(f"{options.file}: a LoRA of {family.name}, and {options.base} is {read_family(base).name}")
    about = AdapterMetadata(
        TLoRAConfig(),
        (),
        base=options.base,
        base_revision=base_revision(base) if base and base.is_folder else "",
        concept=options.concept,
        trigger=options.trigger,
        family=family.name,
    )
    if foreign.is_lycoris:
        if not options.base:
            raise SettingsError(f"{options.file}: a LyCORIS T-LoRA lacks its initial factors: give --base to take them from")
        from tlora.flux.model import load_transformer

        transformer = load_transformer(ModelSpec(options.base, dtype="float32", device="cpu"))
        metadata = import_lycoris(foreign, options.file, transformer, target, schedule, about, options.sig_type)
    else:
        metadata = import_plain(foreign, target, schedule, about)
    mask = f"mask from rank {metadata.config.min_rank} up" if metadata.config.enable_rank_masking else "no mask"
    print(f"{target}: {len(metadata.target_modules)} layers of rank {metadata.config.rank}, from {foreign.dialect}, {mask}")
    if foreign.left_out():
        print(f"left out: {foreign.left_out()}")
