"""`tlora verify`: who signed an adapter, or the folder of a registered model."""

import argparse
from pathlib import Path

from tlora.errors import SettingsError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("path", type=Path, help="adapter folder, .safetensors file, or folder of a registered model")
    parser.add_argument("--public_key", type=Path, help="PEM file; default: trust.public_key of the params.yaml here")


def run(options: argparse.Namespace) -> None:
    """Verify, and say who signed."""
    from tlora.trust.settings import trust_here
    from tlora.trust.signing import verify_adapter, verify_model

    key = options.public_key or trust_here().verifies_with
    if key is None:
        raise SettingsError("no key to verify with: give --public_key")
    is_model = (options.path / "MLmodel").is_file()
    print(f"{options.path}: signed by {(verify_model if is_model else verify_adapter)(options.path, key)}")
