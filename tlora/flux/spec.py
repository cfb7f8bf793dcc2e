"""Which base model is meant, whether it can be had, and what identifies its bytes: known before any weight is loaded."""

import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tlora.errors import ModelError
from tlora.flux.families import FLUX_1, FLUX_2_KLEIN, Family

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
    """The sizes of a base model's transformer; the defaults are FLUX.1-dev's.

    Args:
        double_blocks: Blocks in which text and picture have weights of their own.
        single_blocks: Blocks in which they share them.
        width: Numbers of a token.
        head_width: Numbers of a token in one head of the attention.
        text_width: Width of the embeddings of a caption's tokens.
        pooled_width: Width of the caption's own embedding; 0 where there is none.
        channels: Numbers of a packed token of latents.
        guidance: Whether it takes the guidance as an input.
        pixels_per_latent: Pixels that one latent covers on a side.
        family: Whose network it is.
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
    family: Family = FLUX_1

    @property
    def parameters(self) -> int:
        """The number of weights."""
        d, bias = self.width, int(self.family.has_bias)
        double, single = self.family.blocks
        entrance = (self.channels + bias + self.text_width + bias) * d
        sides = (1 + self.guidance) * ((256 + bias) * d + d * d + bias * d) + self.family.shared_modulation * d * d
        if self.pooled_width:
            sides += (self.pooled_width + bias) * d + d * d + bias * d
        of_double = self.double_blocks * (double.weights * d * d + bias * double.rows * d + 4 * self.head_width)
        of_single = self.single_blocks * (single.weights * d * d + bias * single.rows * d + 2 * self.head_width)
        return entrance + sides + of_double + of_single + 2 * d * d + 2 * bias * d + (d + bias) * self.channels

    def drawing_flops(self, image_tokens: int, text_tokens: int) -> float:
        """Return about how many FLOPs one forward of a sample costs."""
        blocks, tokens = self.double_blocks + self.single_blocks, image_tokens + text_tokens
        return blocks * (2.0 * self.family.token_weights * self.width**2 * tokens + 4.0 * self.width * tokens**2)

    def training_flops(self, image_tokens: int, text_tokens: int) -> float:
        """Return about how many FLOPs a sample costs: forward, and backward to the activations of a frozen base.

        A block of either kind has as many weights for each token; attention compares all pairs of tokens.
        """
        blocks, tokens = self.double_blocks + self.single_blocks, image_tokens + text_tokens
        return blocks * (4.0 * self.family.token_weights * self.width**2 * tokens + 12.0 * self.width * tokens**2)


_VAE = 0.4e9  # bytes; either family's has less


@dataclass(frozen=True)
class HubBase:
    """What is known of a base on the hub before it is here.

    Args:
        shape: Its sizes.
        download: Bytes of it in diffusers' layout, without a single-file copy.
        is_gated: Whether a licence has to be accepted, and so a token is needed.
    """

    shape: FluxShape
    download: float
    is_gated: bool

    @property
    def drawing_download(self) -> float:
        """Bytes of what draws, transformer and VAE in 16 bits a weight, without the text encoders."""
        return 2.0 * self.shape.parameters + _VAE


_KLEIN_4B = FluxShape(5, 20, 3072, 128, 7680, 0, 128, guidance=False, family=FLUX_2_KLEIN)
_KLEIN_9B = FluxShape(8, 24, 4096, 128, 12288, 0, 128, guidance=False, family=FLUX_2_KLEIN)
_DEV = HubBase(FluxShape(), 34e9, is_gated=True)
_HUB_BASES = {
    "black-forest-labs/FLUX.1-dev": _DEV,
    "black-forest-labs/FLUX.1-Krea-dev": _DEV,
    "black-forest-labs/FLUX.1-schnell": HubBase(FluxShape(guidance=False), 34e9, is_gated=True),
    "black-forest-labs/FLUX.2-klein-base-4B": HubBase(_KLEIN_4B, 16e9, is_gated=False),
    "black-forest-labs/FLUX.2-klein-4B": HubBase(_KLEIN_4B, 16e9, is_gated=False),
    "black-forest-labs/FLUX.2-klein-base-9B": HubBase(_KLEIN_9B, 35e9, is_gated=True),
    "black-forest-labs/FLUX.2-klein-9B": HubBase(_KLEIN_9B, 35e9, is_gated=True),
}


def hub_base(path: str) -> HubBase:
    """Return what is known of a base on the hub; of one that is not known, what is known of FLUX.1-dev."""
    return _HUB_BASES.get(path, _DEV)
