"""`tlora inspect`: what an adapter file holds, without loading a model."""

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("file", type=Path, help="adapter folder, .safetensors file, or the T-LoRA authors' lora.pt")


def run(options: argparse.Namespace) -> None:
    """Print facts and a table of layers."""
    from tlora.exchange.inspect import report

    for line in report(options.file):
        print(line)
