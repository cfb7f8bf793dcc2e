"""Which base model is meant, whether it can be had, and what identifies its bytes: known before any weight is loaded."""

import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tlora.errors import ModelError

OLDEST_TORCH = (2, 5)
Quantisation = Literal["none", "int8", "nf4"]


@dataclass(frozen=True)
class ModelSpec:
    """A base model and how it is held.

    Args:
        path: Folder of a saved `FluxPipeline`, or its name on the hub.
        revision: Commit on the hub; empty for a folder.
        dtype: Type of the frozen weights.
        device: `cpu`, `cuda`, `cuda:1`, or `auto` for a GPU where there is one.
        quantisation: Bits a weight of the blocks' Linears: `none` as dtype says, `int8`, or `nf4`, which needs bitsandbytes.
    """

    path: str
    revision: str = ""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    device: str = "auto"
    quantisation: Quantisation = "none"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ValueError(f"device: {self.device!r} is no device: use cpu, cuda, cuda:0 or auto")

    @property
    def is_folder(self) -> bool:
        """Whether the path means a folder: it exists, or lies below one that exists, or is spelt as one."""
        path = Path(self.path)
        spelt_as_folder = self.path.startswith((".", "/", "~")) or self.path.count("/") != 1
        return path.exists() or spelt_as_folder or path.parent.is_dir()

    @property
    def name(self) -> str:
        """The last part of the path, for names of models and files."""
        return Path(self.path).name


def require_torch() -> None:
    """Check, without importing it, that torch is new enough.

    Raises:
        ModelError: Naming the version that is there and the one that is needed.
    """
    have = importlib.metadata.version("torch")
    if tuple(int(part) for part in re.findall(r"\d+", have)[:2]) < OLDEST_TORCH:
        need = ".".join(map(str, OLDEST_TORCH))
        raise ModelError(
            f"torch {have} is too old: attention here needs scaled_dot_product_attention(enable_gqa=...) of torch {need}:"
            f" pip install 'torch>={need}'"
        )


@dataclass(frozen=True)
class FluxShape:
    """The sizes of a FLUX transformer; the defaults are FLUX.1-dev's.

    Args:
        double_blocks: Blocks in which text and picture have weights of their own.
        single_blocks: Blocks in which they share them.
        width: Numbers of a token.
        head_width: Numbers of a token in one head of the attention.
        text_width: Width of the T5 embeddings.
        pooled_width: Width of the CLIP embedding.
        channels: Numbers of a packed token of latents.
        guidance: Whether it takes the guidance as an input.
        pixels_per_latent: Pixels that one latent covers on a side.
    """

    double_blocks: int = 19
    single_blocks: int = 38
    width: int = 3072
    head_width: int = 128
    text_width: int = 4096
    pooled_width: int = 768
    channels: int = 64
    guidance: bool = True
    pixels_per_latent: int = 8

    @property
    def parameters(self) -> int:
        """The number of weights."""
        d = self.width
        entrance = (self.channels + 1 + self.text_width + 1) * d
        sides = (1 + self.guidance) * (256 * d + d + d * d + d) + (self.pooled_width + 1) * d + d * d + d
        double = self.double_blocks * (36 * d * d + 30 * d + 4 * self.head_width)
        single = self.single_blocks * (15 * d * d + 11 * d + 2 * self.head_width)
        return entrance + sides + double + single + 2 * d * d + 2 * d + (d + 1) * self.channels

    def training_flops(self, image_tokens: int, text_tokens: int) -> float:
        """Return about how many FLOPs a sample costs: forward, and backward to the activations of a frozen base.

        A block of either kind has 12 width^2 weights for each token; attention compares all pairs of tokens.
        """
        blocks, tokens = self.double_blocks + self.single_blocks, image_tokens + text_tokens
        return blocks * (48.0 * self.width**2 * tokens + 12.0 * self.width * tokens**2)
