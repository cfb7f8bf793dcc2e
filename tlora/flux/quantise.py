"""Hold the Linears of the blocks, nearly all of a FLUX, in 8 or 4 bits a weight; they answer in the type of their input.

nf4 is bitsandbytes', layer by layer, since diffusers' own way to it refuses to work without a GPU. int8 is here: libraries have
it for drawing, and in training pay for what they save. torchao 0.18 keeps the restored weight for backward, LLM.int8 keeps
every layer's input and rounds it to float16, which FLUX's activations overflow. What is kept for backward here is the codes.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tlora.flux.spec import Quantisation

_LARGEST = 127


class Int8Linear(nn.Module):
    """A frozen Linear whose weight is held in 8 bits, each row with a scale of its own.

    Args:
        linear: The Linear to hold.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        weight = linear.weight.detach()
        scale = (weight.abs().amax(dim=1, keepdim=True) / _LARGEST).clamp(min=torch.finfo(weight.dtype).tiny)
        codes = (weight.float() / scale.float()).round().clamp(-_LARGEST, _LARGEST).to(torch.int8)
        self.weight, self.scale = (nn.Parameter(tensor, requires_grad=False) for tensor in (codes, scale))

    def forward(self, x: Float[Tensor, "*batch inside"]) -> Float[Tensor, "*batch outside"]:
        """Return what a Linear with the restored weight would."""
        product: Tensor = _Int8Product.apply(_as_autocast(x), self.weight, self.scale, self.bias)
        return product


class _Int8Product(torch.autograd.Function):
    """Restores the weight in forward and once more in backward, so that no copy of it lives between them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(codes, scale)
        return F.linear(x, _restored(codes, scale, x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,), (codes, scale) = gradients, ctx.saved_tensors
        return gradient @ _restored(codes, scale, gradient.dtype), None, None, None


def quantise_blocks(blocks: nn.Module, quantisation: Quantisation, device: torch.device) -> None:
    """Replace every Linear below a module by one that holds its weight in fewer bits, one after the other, on the device."""
    for name, module in list(blocks.named_modules()):
        if isinstance(module, nn.Linear):
            held = module.to(device)
            blocks.set_submodule(name, Int8Linear(held) if quantisation == "int8" else _nf4_linear(held))


def plain_weight(linear: nn.Module) -> Tensor | None:
    """Return a Linear's weight in float32, restored if it is quantised here; None if somebody else quantised it."""
    weight = linear.weight
    assert isinstance(weight, Tensor)
    if isinstance(linear, Int8Linear):
        return _restored(linear.weight, linear.scale, torch.float32)
    if hasattr(weight, "quant_state"):
        from bitsandbytes.functional import dequantize_4bit

        restored: Tensor = dequantize_4bit(weight.data, weight.quant_state).float()
        return restored
    return weight.detach().float() if weight.is_floating_point() else None


def _nf4_linear(linear: nn.Linear) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    held: nn.Module = Linear4bit(
        linear.in_features, linear.out_features, bias=False, compute_dtype=linear.weight.dtype, quant_type="nf4", device="meta"
    )
    weight = linear.weight.detach()
    held.weight = Params4bit(weight, requires_grad=False, quant_type="nf4", module=held).to(weight.device)
    held.bias = linear.bias
    held.support_avx512bf16_for_cpu = False  # type: ignore[assignment]  # or drawing repacks the weight for good: no gradient after
    held.register_forward_pre_hook(lambda _linear, inputs: tuple(map(_as_autocast, inputs)))
    return held


def _restored(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return (codes * scale).to(dtype)


def _as_autocast(x: Tensor) -> Tensor:
    """Do to the input what autocast does to that of a plain Linear."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x
