"""`tlora train`: an adapter from one flat configuration."""

import argparse

from tlora.commands.config_options import add_config_options, say, use_token


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_config_options(parser)


def run(options: argparse.Namespace) -> None:
    """Train."""
    from tlora.flat_config import read_flat_config

    use_token(options)
    config = read_flat_config(options.config)
    from tlora.single_run import train_from_config

    train_from_config(config, say)
