"""What differential output preservation adds to the loss, what it keeps, what it costs, and that it is as exact as all else."""

import dataclasses
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.tiny_flux import Inputs, predict
from tests.tlora.training.test_loop import SETTINGS, prepare, read_prompts, run, views, weights, with_loop
from tests.tlora.training.test_step import SEED, drawn_by_hand, shake
from tlora.flux.latents import image_ids, pack
from tlora.inject import inject_tlora_into_transformer
from tlora.metadata.config import TLoRAConfig
from tlora.schedule import sigma_mask_from_timestep
from tlora.training.loop import Training
from tlora.training.mfu import step_cost
from tlora.training.settings import PreserveSettings, TrainingSettings


def preserving(share: float = 0.5, weight: float = 2.0, **loop: object) -> TrainingSettings:
    return dataclasses.replace(with_loop(**loop), preservation=PreserveSettings(weight, share))


def test_the_class_caption_is_pulled_towards_the_base_at_the_same_noise_under_the_sample_s_own_mask() -> None:
    training = prepare(preserving(seed=SEED))
    shake(training.transformer)
    latents, noise, sigma, captions = drawn_by_hand()
    level, mask = sigma[:, None, None, None], sigma_mask_from_timestep(1000 * sigma, 1000, rank=4, min_rank=1)
    noisy = pack((1 - level) * latents + level * noise)

    def ask(texts: list[str], masks: Tensor) -> Tensor:
        inputs = Inputs(noisy, 1000 * sigma, *read_prompts(texts), image_ids(6, 6), torch.ones(2))
        return predict(training.transformer, inputs, {"sigma_mask": masks})

    concept = F.mse_loss(ask(captions, mask), pack(noise - latents)).item()
    of_class = [caption.replace("caption", "class") for caption in captions]
    moved = (ask(of_class, mask) - ask(of_class, torch.zeros_like(mask)))[1].square().mean().item()  # the second of every two
    assert moved > 1e-4
    items = views()
    report = next(
        iter(training.steps(items, [(6, 6)] * 5, read_prompts, {i.caption: i.caption.replace("caption", "class") for i in items}))
    )
    assert report.loss == pytest.approx(concept, rel=1e-5)
    assert report.preservation == pytest.approx(2.0 / 0.5 * moved / 2, rel=1e-4)


def test_off_nothing_is_added_and_a_caption_that_stays_the_same_is_not_preserved() -> None:
    off, same = prepare(), prepare(preserving(share=1.0))
    items = views()
    plain = [report.loss for report in off.steps(items, [(6, 6)] * 5, read_prompts)]
    kept = [*same.steps(items, [(6, 6)] * 5, read_prompts, {item.caption: item.caption for item in items})]
    assert [report.loss for report in kept] == plain
    assert {report.preservation for report in kept} == {0.0}
    assert all(torch.equal(t, weights(off)[n]) for n, t in weights(same).items())


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.5}, {"gradient_accumulation_steps": 2}, {"caption_dropout": 0.5}])
def test_four_steps_then_resume_equals_six_steps(changes: dict[str, object]) -> None:
    settings = preserving(share=0.3, **changes)
    unbroken = prepare(settings)
    losses = run(unbroken)
    first, second = prepare(settings), prepare(settings)
    run(first, until=4)
    tensors, plain = first.state()
    second.restore({k: v.clone() for k, v in tensors.items()}, plain)
    assert run(second) == losses[4:]
    assert all(torch.equal(t, weights(unbroken)[n]) for n, t in weights(second).items())


def test_accumulation_equals_a_larger_batch() -> None:
    large = prepare(preserving(share=0.25, train_batch_size=4))
    run(large)
    small = prepare(preserving(share=0.25, train_batch_size=1, gradient_accumulation_steps=4))
    run(small)
    for name, tensor in weights(large).items():
        torch.testing.assert_close(weights(small)[name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_from_the_doubled_batch(tmp_path: Path) -> None:
    one = prepare(preserving(share=0.25, train_batch_size=4, gradient_checkpointing=True))
    run(one)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_train_in_parallel, args=(port, tmp_path / "two.safetensors"), nprocs=2)
    two = load_file(tmp_path / "two.safetensors")
    for name, tensor in weights(one).items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5)


def _train_in_parallel(process: int, port: int, file: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(process), "LOCAL_RANK": str(process), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    training = prepare(preserving(share=0.25, train_batch_size=2, gradient_checkpointing=True))  # of the first process none
    run(training)
    if process == 0:
        save_file(weights(training), file)
    os._exit(0)  # freeing a process group can wait for ever for a thread of gloo's that waits for Python


@pytest.mark.parametrize(
    "adapter",
    [
        SETTINGS.adapter,
        TLoRAConfig(rank=4, alpha=4, min_rank=1, trainer_type="ortho_lora"),
        TLoRAConfig(4, 4, min_rank=1, enable_rank_masking=False),
    ],
)
def test_output_under_the_class_caption_moves_less_and_that_under_the_caption_itself_more(adapter: TLoRAConfig) -> None:
    def trained(weight: float) -> tuple[float, float]:
        settings = dataclasses.replace(with_loop(max_train_steps=40), adapter=adapter, preservation=PreserveSettings(weight, 1.0))
        training = prepare(settings)
        run(training)
        return moved_under(training, "caption 0"), moved_under(training, "class 0")

    (_, far), (taught, near) = trained(0.0), trained(5.0)
    assert near < 0.6 * far
    assert taught > 1.2 * near


def moved_under(training: Training, caption: str) -> float:
    """Return how far the prediction under a caption is from the base's, at a fixed noise."""
    noisy = torch.randn(1, 9, 16, generator=torch.Generator().manual_seed(5))
    inputs = Inputs(noisy, torch.tensor([300.0]), *read_prompts([caption]), image_ids(6, 6), torch.ones(1))
    ones = torch.ones(1, 4)
    return (
        (
            predict(training.transformer, inputs, {"sigma_mask": ones})
            - predict(training.transformer, inputs, {"sigma_mask": ones, "scale": 0.0})
        )
        .square()
        .mean()
        .item()
    )


def test_as_shipped_it_costs_less_than_half_a_step_more() -> None:
    """FLUX.1-dev's own widths, two blocks of either kind; the shares are those of the whole model."""
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(num_layers=2, num_single_layers=4, guidance_embeds=True).requires_grad_(False)
    inject_tlora_into_transformer(transformer, ("to_q", "to_k", "to_v"), SETTINGS.adapter)
    step, forward = step_cost(transformer), step_cost(transformer, backward=False)
    share = PreserveSettings(1.0).preserve_share
    tokens = (4096, 512)
    extra = share * (step.flops(1, *tokens) + forward.flops(1, *tokens)) / step.flops(1, *tokens)
    assert 0.3 < extra < 0.45
    assert sum(PreserveSettings(1.0).takes(sample) for sample in range(400)) == 100


@pytest.mark.parametrize(
    ("weight", "share", "reason"),
    [
        (-1.0, 0.5, "preserve must not be negative"),
        (1.0, 0.0, "preserve_share must be above 0 and at most 1"),
        (1.0, 1.5, "got 1.5"),
    ],
)
def test_weights_and_shares_out_of_range_are_refused(weight: float, share: float, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        PreserveSettings(weight, share)
