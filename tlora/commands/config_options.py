"""The options that every verb with a flat configuration shares."""

import argparse
import os
from pathlib import Path


def add_config_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add `--config` and `--hf_token`."""
    parser.add_argument("--config", type=Path, required=required, help="flat YAML file")
    parser.add_argument(
        "--hf_token",
        help="read token of the Hugging Face hub; better in the environment as HF_TOKEN: a flag can be seen by everybody in ps",
    )


def use_token(options: argparse.Namespace) -> None:
    """Hand `--hf_token` to the hub client, which looks in the environment."""
    if options.hf_token:
        os.environ["HF_TOKEN"] = options.hf_token


def say(line: str) -> None:
    """Show a line to whoever runs the verb."""
    print(line, flush=True)
