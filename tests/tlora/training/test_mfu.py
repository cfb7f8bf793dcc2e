"""FLOPs are those that torch counts, and a rate is one that the device reaches."""

import re
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.tiny_flux import predict, tiny_inputs, tiny_transformer
from tests.tlora.adapted import ATTENTION, CFG, EVERY_SUFFIX
from tlora.inject import inject_tlora_into_transformer
from tlora.metadata.config import TLoRAConfig
from tlora.training.mfu import matmul_rate, step_cost
from tlora.training.recompute import recompute_blocks

TOO_MANY = 0.04  # of two blocks: the first one's norms need no gradient, which is left out of account


@pytest.mark.parametrize("suffixes", [ATTENTION, EVERY_SUFFIX])
@pytest.mark.parametrize("cfg", [CFG, TLoRAConfig(rank=16, min_rank=1)])
def test_a_step_needs_what_torch_counts(cfg: TLoRAConfig, suffixes: tuple[str, ...]) -> None:
    transformer, inputs = tiny_transformer(blocks=4), tiny_inputs(2, rows=8, columns=16)
    inject_tlora_into_transformer(transformer, suffixes, cfg)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # it does not know the CPU's own attention
        predict(transformer, inputs, {"sigma_mask": torch.ones(1, cfg.rank)}).sum().backward()
    needed = step_cost(transformer).flops(2, 128, 5)
    assert 0 <= needed / counter.get_total_flops() - 1 < TOO_MANY


def test_what_is_computed_again_does_not_count() -> None:
    transformer = tiny_transformer().train()
    inject_tlora_into_transformer(transformer, ATTENTION, CFG)
    before = step_cost(transformer)
    recompute_blocks(transformer, 1)
    assert step_cost(transformer) == before


def test_the_rate_is_measured_once_and_draws_no_random_number() -> None:
    state = torch.get_rng_state()
    rate = matmul_rate(torch.device("cpu"), torch.float32)
    assert 1e8 < rate < 1e14
    assert torch.equal(torch.get_rng_state(), state)
    assert matmul_rate(torch.device("cpu"), torch.float32) == rate


def test_the_page_on_cards_says_what_a_sample_of_flux1_needs() -> None:
    page = (Path(__file__).parents[3] / "docs/cards.md").read_text()
    rows = re.findall(r"^\| (\d+) \| ([\w ]+) \| (\d+) \| ([\d.]+) s \| ([\d.]+) s \| ([\d.]+) s \|", page, flags=re.M)
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(guidance_embeds=True).requires_grad_(False)
        inject_tlora_into_transformer(transformer, ATTENTION, TLoRAConfig(rank=16, min_rank=8))
    cost, again = step_cost(transformer), {"nothing": 0.0, "every 4th block": 1 / 4, "every block": 1.0}
    assert len(rows) == 5
    for pixels, recomputed, teraflops, *seconds in rows:
        tokens = (int(pixels) // 16) ** 2
        needed, attention = cost.flops(1, tokens, 77), cost.pair * (tokens + 77) ** 2
        forward = (needed - attention) / 2 + attention / 3
        done = needed + again[recomputed] * forward
        assert done / 1e12 == pytest.approx(int(teraflops), abs=0.6)
        assert [float(s) for s in seconds] == [pytest.approx(2 * done / rate, rel=0.03) for rate in (150e12, 300e12, 700e12)]
