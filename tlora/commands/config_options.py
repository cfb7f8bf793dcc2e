"""The options that every verb with a flat configuration shares."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tlora.flux.spec import require_torch
from tlora.runtime.lean_imports import lean_imports

if TYPE_CHECKING:
    from tlora.commands.flat_config import FlatConfig


def add_config_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add `--config` and `--hf_token`."""
    parser.add_argument("--config", type=Path, required=required, help="flat YAML file")
    parser.add_argument(
        "--hf_token",
        help="read token of the Hugging Face hub; better in the environment as HF_TOKEN: a flag can be seen by everybody in ps",
    )


def read_config(options: argparse.Namespace) -> "FlatConfig":
    """Read the configuration, once the machine and the token are seen to.

    Raises:
        TloraError: If torch is too old, or the file is wrong.
    """
    with lean_imports():
        from tlora.commands.flat_config import read_flat_config

    prepare(options)
    return read_flat_config(options.config)


def prepare(options: argparse.Namespace) -> None:
    """Hand `--hf_token` to the hub client, which looks in the environment, and check the versions that would be met too late.

    Raises:
        ModelError: If torch is too old.
    """
    if options.hf_token:
        os.environ["HF_TOKEN"] = options.hf_token
    require_torch()


def say(line: str) -> None:
    """Show a line to whoever runs the verb."""
    print(line, flush=True)
