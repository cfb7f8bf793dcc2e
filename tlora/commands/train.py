"""`tlora train`: an adapter from one flat configuration."""

import argparse

from tlora.commands.config_options import add_config_options, read_config, say


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_config_options(parser)


def run(options: argparse.Namespace) -> None:
    """Train."""
    config = read_config(options)
    from tlora.commands.flat_training import train_from_config

    train_from_config(config, say)
