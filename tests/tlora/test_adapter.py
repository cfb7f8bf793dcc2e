"""The two layers on their own, against the formulas that they claim."""

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from tlora.adapter import OrthoTLoRALinear, TLoRALinear, build_layer
from tlora.errors import InjectionError, MaskError
from tlora.metadata.config import TLoRAConfig

KINDS = ("lora", "ortho_lora")
CFG = TLoRAConfig(rank=4, alpha=6.0, min_rank=1)
ORTHO = TLoRAConfig(rank=4, alpha=6.0, min_rank=1, trainer_type="ortho_lora")


class Int8Linear(nn.Module):
    """A quantised Linear as libraries make them: no nn.Linear, no parameters, integers in a buffer."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scale = linear.weight.detach().abs().max() / 127
        self.register_buffer("weight", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(inside: int = 8, outside: int = 6) -> nn.Linear:
    layer = nn.Linear(inside, outside)
    with torch.no_grad():
        layer.weight.normal_(generator=source(1))
        layer.bias.normal_(generator=source(2))
    return layer


def shaken(layer: TLoRALinear | OrthoTLoRALinear) -> TLoRALinear | OrthoTLoRALinear:
    """Move every adapter weight away from where it starts, as training would."""
    with torch.no_grad():
        for i, (name, parameter) in enumerate(layer.named_parameters()):
            if not name.startswith("base."):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=source(i)))
    return layer


@pytest.mark.parametrize("svd_source", ["weight", "random"])
@pytest.mark.parametrize("sig_type", ["principal", "last", "middle"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_layer_is_its_base_to_the_bit(kind: str, sig_type: str, svd_source: str) -> None:
    base, x = linear(), torch.randn(3, 5, 8, generator=source())
    layer = build_layer(base, TLoRAConfig(4, 6.0, 0.0, 1, 1.0, kind, sig_type, svd_source=svd_source), source())
    layer.arm(torch.tensor([[1.0, 1.0, 0.0, 0.0]]), 0.7)
    assert torch.equal(layer(x), base(x))


def test_the_lora_layer_is_base_plus_scale_times_alpha_over_rank_times_up_mask_down() -> None:
    layer, x = shaken(TLoRALinear(linear(), CFG, source())), torch.randn(2, 5, 8, generator=source())
    mask = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    layer.arm(mask, 0.5)
    update = torch.stack([x[i] @ (layer.up.weight @ torch.diag(mask[i]) @ layer.down.weight).T for i in range(2)])
    torch.testing.assert_close(layer(x), layer.base(x) + 0.5 * 6.0 / 4 * update)


def test_the_ortho_layer_is_base_plus_learnt_minus_initial_factors() -> None:
    layer, x = shaken(OrthoTLoRALinear(linear(), ORTHO, source())), torch.randn(2, 5, 8, generator=source())
    mask = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    layer.arm(mask, 0.5)
    learnt = [layer.p_layer.weight @ torch.diag(row * layer.lambda_layer) @ layer.q_layer.weight for row in mask]
    initial = [layer.base_p @ torch.diag(row * layer.base_lambda) @ layer.base_q for row in mask]
    update = torch.stack([x[i] @ (learnt[i] - initial[i]).T for i in range(2)])
    torch.testing.assert_close(layer(x), layer.base(x) + 0.5 * 6.0 / 4 * update)


@pytest.mark.parametrize("kind", KINDS)
def test_the_factors_multiply_to_the_whole_update(kind: str) -> None:
    layer = shaken(build_layer(linear(), TLoRAConfig(4, 6.0, 0.0, 1, 1.0, kind), source()))
    x = torch.randn(3, 8, generator=source())
    layer.arm(torch.ones(1, 4), 1.0)
    up, down = layer.factors()
    torch.testing.assert_close(layer(x) - layer.base(x), x @ (up @ down).T)


@pytest.mark.parametrize(("sig_type", "first"), [("principal", 0), ("middle", 1), ("last", 2)])
def test_ortho_factors_are_the_chosen_singular_vectors_of_the_weight(sig_type: str, first: int) -> None:
    base = linear()
    layer = OrthoTLoRALinear(base, TLoRAConfig(4, 4.0, 0.0, 1, 1.0, "ortho_lora", sig_type))
    values = torch.linalg.svdvals(base.weight)[first : first + 4]  # of six
    torch.testing.assert_close(layer.lambda_layer.data, values)
    torch.testing.assert_close(layer.q_layer.weight @ layer.q_layer.weight.T, torch.eye(4))
    torch.testing.assert_close(layer.p_layer.weight.T @ layer.p_layer.weight, torch.eye(4))
    torch.testing.assert_close((layer.p_layer.weight.T @ base.weight @ layer.q_layer.weight.T), torch.diag(values))


@pytest.mark.parametrize(
    ("kind", "sig_type", "svd_source", "line"),
    [
        ("lora", "last", "weight", ""),
        ("ortho_lora", "last", "weight", "starts from the last singular vectors of each weight: full SVD of each layer"),
        ("ortho_lora", "principal", "weight", "starts from the principal singular vectors of each weight: approximate"),
        ("ortho_lora", "last", "random", "starts from the last singular vectors of a random matrix: drawn by its factors"),
    ],
)
def test_what_of_the_start_is_approximate_or_slow_is_said(kind: str, sig_type: str, svd_source: str, line: str) -> None:
    said = TLoRAConfig(trainer_type=kind, sig_type=sig_type, svd_source=svd_source).starting_line
    assert said.startswith(line) if line else said == ""


def test_a_large_layer_starts_as_its_base_to_the_bit_from_approximate_vectors() -> None:
    base, x = linear(256, 320), torch.randn(3, 256, generator=source())
    layer = OrthoTLoRALinear(base, ORTHO, source())
    assert float(layer.lambda_layer.detach()[0]) < float(torch.linalg.matrix_norm(base.weight.detach(), 2)) * (
        1 - 1e-6
    )  # no SVD was made
    layer.arm(torch.ones(1, 4), 1.0)
    assert torch.equal(layer(x), base(x))


def test_ortho_factors_do_not_keep_the_whole_decomposition_in_memory() -> None:
    layer = OrthoTLoRALinear(linear(64, 64), ORTHO)
    own = (layer.q_layer.weight, layer.p_layer.weight, layer.lambda_layer, layer.base_q, layer.base_p, layer.base_lambda)
    assert [t.untyped_storage().nbytes() // 4 for t in own] == [256, 256, 4, 256, 256, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_mask_equals_plain_lora_to_the_bit(kind: str) -> None:
    x = torch.randn(2, 5, 8, generator=source())
    masked = shaken(build_layer(linear(), TLoRAConfig(4, 6.0, 0.0, 1, 1.0, kind), source()))
    plain = shaken(build_layer(linear(), TLoRAConfig(4, 6.0, 0.0, 1, 1.0, kind, enable_rank_masking=False), source()))
    masked.arm(torch.ones(2, 4), 1.0)
    assert torch.equal(masked(x), plain(x))


@pytest.mark.parametrize("kind", KINDS)
def test_masked_ranks_get_no_gradient_and_the_others_do(kind: str) -> None:
    layer = shaken(build_layer(linear(), TLoRAConfig(4, 6.0, 0.0, 1, 1.0, kind), source()))
    layer.arm(torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]), 1.0)
    layer(torch.randn(2, 5, 8, generator=source())).square().sum().backward()
    by_rank = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    by_rank |= {name: grad.T for name, grad in by_rank.items() if name in ("up.weight", "p_layer.weight")}
    assert len(by_rank) == (2 if kind == "lora" else 3)
    for grad in by_rank.values():
        assert [bool(row.any()) for row in grad] == [True, True, False, False]


def test_the_base_is_frozen_and_gets_no_gradient() -> None:
    layer = TLoRALinear(linear(), CFG, source())
    layer.arm(torch.ones(1, 4), 1.0)
    layer(torch.randn(2, 8)).sum().backward()
    assert (layer.base.weight.requires_grad, layer.base.weight.grad, layer.base.bias.grad) == (False, None, None)


def test_float32_factors_work_with_a_bfloat16_base_and_stay_float32() -> None:
    layer = TLoRALinear(linear().bfloat16(), CFG, source())
    layer.arm(torch.ones(1, 4), 1.0)
    output = layer(torch.randn(2, 8).bfloat16())
    output.float().sum().backward()
    assert (output.dtype, layer.up.weight.dtype, layer.up.weight.grad.dtype) == (torch.bfloat16, torch.float32, torch.float32)


@pytest.mark.parametrize("shape", [(3, 8), (3, 5, 8), (3, 2, 5, 8)])
def test_a_mask_row_reaches_its_sample_whatever_lies_between_batch_and_features(shape: tuple[int, ...]) -> None:
    layer, x = shaken(TLoRALinear(linear(), CFG, source())), torch.randn(shape, generator=source())
    mask = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
    layer.arm(mask, 1.0)
    together = layer(x)
    for i in range(3):
        layer.arm(mask[i : i + 1], 1.0)
        torch.testing.assert_close(together[i : i + 1], layer(x[i : i + 1]), rtol=1e-5, atol=1e-6)


def test_a_quantised_linear_that_is_no_nn_linear_can_be_wrapped() -> None:
    layer = shaken(TLoRALinear(Int8Linear(linear()), CFG, source()))
    layer.arm(torch.ones(1, 4), 1.0)
    x = torch.randn(2, 8, generator=source())
    torch.testing.assert_close(layer(x), layer.base(x) + 1.5 * x @ (layer.up.weight @ layer.down.weight).T)


def test_a_quantised_weight_has_no_singular_vectors_to_take_but_random_ones_will_do() -> None:
    with pytest.raises(InjectionError, match=r"can be restored to plain weights: use svd_source 'random'"):
        OrthoTLoRALinear(Int8Linear(linear()), ORTHO)
    cfg = TLoRAConfig(4, 6.0, 0.0, 1, 1.0, "ortho_lora", "last", svd_source="random")
    assert OrthoTLoRALinear(Int8Linear(linear()), cfg, source()).q_layer.weight.shape == (4, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_an_uninitialised_layer_is_all_zero_and_draws_nothing(kind: str) -> None:
    generator = source()
    before = generator.get_state()
    layer = build_layer(linear(), TLoRAConfig(4, 6.0, 0.0, 1, 1.0, kind), generator, initialise=False)
    assert not any(bool(t.any()) for name, t in layer.state_dict().items() if not name.startswith("base."))
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_layer_whatever_was_drawn_before(kind: str) -> None:
    cfg = TLoRAConfig(4, 6.0, 0.0, 1, 1.0, kind, svd_source="random")
    first = build_layer(linear(), cfg, source(7)).state_dict()
    torch.rand(3)
    second = build_layer(linear(), cfg, source(7)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_layer_without_a_mask_refuses_to_run() -> None:
    layer = TLoRALinear(linear(), CFG, source())
    with pytest.raises(MaskError, match="rank masking is on but no sigma mask came with this call"):
        layer(torch.randn(2, 8))


def test_a_layer_without_rank_masking_needs_no_mask() -> None:
    layer = TLoRALinear(linear(), TLoRAConfig(rank=4, min_rank=1, enable_rank_masking=False), source())
    assert layer(torch.randn(2, 8)).shape == (2, 6)


@pytest.mark.parametrize("shape", [(3, 4), (2, 5), (1, 1)])
def test_a_mask_of_another_shape_is_refused(shape: tuple[int, int]) -> None:
    layer = TLoRALinear(linear(), CFG, source())
    layer.arm(torch.ones(shape), 1.0)
    with pytest.raises(MaskError, match=rf"need a sigma mask of shape \(2, 4\) or \(1, 4\), got \({shape[0]}, {shape[1]}\)"):
        layer(torch.randn(2, 8))


@pytest.mark.parametrize("kind", KINDS)
def test_a_rank_larger_than_the_layer_is_refused(kind: str) -> None:
    with pytest.raises(InjectionError, match="rank 7 is larger than a layer of 8 x 6 can hold"):
        build_layer(linear(), TLoRAConfig(7, 7.0, 0.0, 1, 1.0, kind))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 8, "min_rank": 9}, "need 1 <= min_rank <= rank, got 9 and 8"),
        ({"rank": 0, "min_rank": 0}, "need 1 <= min_rank <= rank, got 0 and 0"),
        ({"alpha": 0.0}, r"alpha must be positive, got 0\.0"),
        ({"alpha": float("nan")}, "alpha must be positive, got nan"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1\.0"),
        ({"alpha_rank_scale": -1.0}, r"alpha_rank_scale must be positive and finite, got -1\.0"),
    ],
)
def test_a_config_out_of_range_is_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TLoRAConfig(**values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["lora", "ortho_lora"])
def test_the_bits_are_the_same_with_and_without_gradients(kind: Literal["lora", "ortho_lora"], dtype: torch.dtype) -> None:
    """Without them the update is added in place."""
    cfg = TLoRAConfig(rank=4, alpha=2.0, min_rank=1, trainer_type=kind)
    layer = build_layer(nn.Linear(16, 24).to(dtype), cfg, torch.Generator().manual_seed(0))
    for parameter in (p for name, p in layer.named_parameters() if not name.startswith("base.")):
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    layer.arm(torch.tensor([[1.0, 1.0, 0.0, 0.0]]), 0.7)
    x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(2)).to(dtype)
    with torch.no_grad():
        without, again = layer(x), layer(x)
    assert torch.equal(layer(x).detach(), without)
    assert torch.equal(without, again)  # neither x nor a weight was written to
