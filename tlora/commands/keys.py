"""`tlora keys`: the pair of keys that adapters are signed and verified with."""

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("folder", type=Path, help="where the two files are written; outside of any Git repository")


def run(options: argparse.Namespace) -> None:
    """Make the keys and say what to do with them."""
    from tlora.trust.keys import identity_of, load_public_key, make_keys
    from tlora.trust.settings import PRIVATE_KEY

    private, public = make_keys(options.folder)
    print(f"{private}: keep it to yourself; to sign: trust.private_key in params.yaml, or {PRIVATE_KEY} in the environment")
    print(f"{public}: copy it into the repository; to verify: trust.public_key in params.yaml")
    print(f"identity: {identity_of(load_public_key(public))}")
