"""One training step worked out by hand, and the same step spread over processes."""

import dataclasses
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.tiny_flux import Inputs, predict, tiny_transformer
from tests.tlora.training.test_loop import SETTINGS, prepare, read_prompts, run, views, weights, with_loop
from tlora.errors import SettingsError
from tlora.flux.latents import image_ids, pack
from tlora.flux.noise import draw_sigma, sample_generator
from tlora.inject import inject_tlora_into_transformer, tlora_parameters
from tlora.schedule import sigma_mask_from_timestep
from tlora.training.loop import Training, masked_mse
from tlora.training.sample_order import SamplePlan

SEED = 2  # the two samples of the first step then have different ranks


def shake(transformer: nn.Module) -> None:
    """Move a fresh adapter, whose mask would otherwise not show in the loss."""
    with torch.no_grad():
        for i, parameter in enumerate(tlora_parameters(transformer)):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))


def drawn_by_hand() -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """Return latents, noise, sigma and captions of the first step's two samples, each from its own random source."""
    items, latents, noise, sigma = views(), [], [], []
    chosen = SamplePlan([(6, 6)] * 5, samples_per_step=2, steps=6, seed=SEED).indices(0)
    for slot, view in enumerate(chosen):
        source = sample_generator(SEED, 0, slot)
        sigma.append(draw_sigma(SETTINGS.noise, 9, source))
        torch.rand(1, generator=source)  # whether the caption is dropped
        latents.append(items[view].mean + items[view].std * torch.randn(4, 6, 6, generator=source))
        noise.append(torch.randn(4, 6, 6, generator=source))
    return torch.stack(latents), torch.stack(noise), torch.cat(sigma), [items[view].caption for view in chosen]


def test_the_loss_is_that_of_the_velocity_at_guidance_one_with_each_sample_its_own_mask_and_caption() -> None:
    training = prepare(with_loop(seed=SEED))
    shake(training.transformer)
    latents, noise, sigma, captions = drawn_by_hand()
    level = sigma[:, None, None, None]
    mask = sigma_mask_from_timestep(1000 * sigma, 1000, rank=4, min_rank=1)
    assert mask[0].sum() != mask[1].sum()
    assert captions[0] != captions[1]
    inputs = Inputs(
        pack((1 - level) * latents + level * noise), 1000 * sigma, *read_prompts(captions), image_ids(6, 6), torch.ones(2)
    )
    right, wrong = (predict(training.transformer, inputs, {"sigma_mask": m}) for m in (mask, mask.flip(0)))
    loss, other = (F.mse_loss(prediction, pack(noise - latents)).item() for prediction in (right, wrong))
    assert other != pytest.approx(loss, rel=1e-4)
    assert run(training, until=1) == pytest.approx([loss], rel=1e-6)


def test_a_loss_mask_weighs_the_error_and_every_sample_counts_alike() -> None:
    prediction, target = torch.randn(2, 3, 2, 2), torch.zeros(2, 3, 2, 2)
    error = prediction.square()
    left = torch.tensor([[1.0, 0.0], [0.5, 0.0]])
    first = (error[0, :, 0, 0].mean() + 0.5 * error[0, :, 1, 0].mean()) / 1.5
    assert masked_mse(prediction, target, [left, None]) == pytest.approx(float((first + error[1].mean()) / 2), rel=1e-5)
    assert torch.equal(masked_mse(prediction, target, [None, None]), F.mse_loss(prediction, target))


def test_a_white_loss_mask_learns_what_none_learns_and_another_learns_otherwise() -> None:
    plain, masked = prepare(), prepare()
    items = [dataclasses.replace(view, loss_mask=torch.ones(6, 6)) for view in views()]
    run(plain)
    run(masked, items)
    for name, tensor in weights(masked).items():
        torch.testing.assert_close(tensor, weights(plain)[name], rtol=1e-3, atol=1e-5)
    half = torch.ones(6, 6)
    half[:, 3:] = 0
    halved = prepare()
    assert run(halved, [dataclasses.replace(view, loss_mask=half) for view in views()], until=1) != run(prepare(), until=1)


def test_an_accelerator_that_accumulates_otherwise_is_refused() -> None:
    transformer = tiny_transformer()
    inject_tlora_into_transformer(transformer, ["to_q"], SETTINGS.adapter)
    with pytest.raises(SettingsError, match="gradient_accumulation_steps is 4 but the accelerator's is 2"):
        Training(transformer, with_loop(gradient_accumulation_steps=4), Accelerator(cpu=True, gradient_accumulation_steps=2))


def test_a_transformer_without_an_adapter_is_refused() -> None:
    with pytest.raises(SettingsError, match="the transformer carries no adapter to train"):
        Training(tiny_transformer(), SETTINGS, Accelerator(cpu=True))


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_from_the_doubled_batch(tmp_path: Path) -> None:
    one = prepare(with_loop(train_batch_size=4, gradient_checkpointing=True))
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
    training = prepare(with_loop(train_batch_size=2, gradient_checkpointing=True))
    assert training.accelerator.num_processes == 2
    run(training)
    if process == 0:
        save_file(weights(training), file)
    os._exit(0)  # freeing a process group can wait for ever for a thread of gloo's that waits for Python
