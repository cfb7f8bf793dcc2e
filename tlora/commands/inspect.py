"""`tlora inspect`: what an adapter file holds, without loading a model."""

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("file", type=Path, help="adapter folder or .safetensors file")


def run(options: argparse.Namespace) -> None:
    """Print metadata and tensors."""
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
