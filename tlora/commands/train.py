"""`tlora train`: an adapter from one flat configuration."""

import argparse

from tlora.commands.config_options import add_config_options, read_config, say
from tlora.runtime.lean_imports import lean_imports


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_config_options(parser)


def run(options: argparse.Namespace) -> None:
    """Train."""
    config = read_config(options)
    with lean_imports():
        from tlora.commands.flat_training import train_from_config

    train_from_config(config, say)
