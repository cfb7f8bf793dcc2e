"""What a run learns depends on its inputs and its seed alone: not on resuming, accumulation or anything else that happened."""

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from tests.tiny_flux import LATENT_CHANNELS, POOLED_WIDTH, TEXT_WIDTH, tiny_transformer
from tlora.checkpoint import adapter_tensors
from tlora.errors import TrainingError
from tlora.flux.cached import LatentItem
from tlora.flux.noise import NoiseSettings
from tlora.inject import adapter_layers, inject_tlora_into_transformer
from tlora.metadata.config import TLoRAConfig
from tlora.training.loop import Training
from tlora.training.optimizer import OptimizerSettings
from tlora.training.settings import LoopSettings, TrainingSettings

SETTINGS = TrainingSettings(
    TLoRAConfig(rank=4, alpha=4, min_rank=1),
    NoiseSettings(),
    OptimizerSettings(learning_rate=1e-2, lr_schedule="cosine", lr_warmup_steps=2),
    LoopSettings(max_train_steps=6, train_batch_size=2, gradient_checkpointing=False),
)


WIDE = ("proj_mlp", "proj_out")


def views(count: int = 5, side: int = 6) -> list[LatentItem]:
    """Return random cached views with a caption each."""
    source = torch.Generator().manual_seed(0)
    shape = (LATENT_CHANNELS, side, side)
    return [
        LatentItem(f"{i}.png", f"caption {i}", torch.randn(shape, generator=source), torch.full(shape, 0.1)) for i in range(count)
    ]


def read_prompts(captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return embeddings that are a function of the caption."""
    rows = [torch.Generator().manual_seed(len(c) * 1000 + sum(map(ord, c))) for c in captions]
    embeds = torch.stack([torch.randn(5, TEXT_WIDTH, generator=row) for row in rows])
    return embeds, torch.stack([torch.randn(POOLED_WIDTH, generator=row) for row in rows])


def prepare(settings: TrainingSettings = SETTINGS, targets: Sequence[str] = ("to_q", "to_v")) -> Training:
    """Return a fresh run on the tiny transformer."""
    transformer = tiny_transformer()
    inject_tlora_into_transformer(transformer, targets, settings.adapter, leave_blocks_out=targets is WIDE)
    steps = settings.loop.gradient_accumulation_steps
    return Training(transformer, settings, Accelerator(cpu=True, gradient_accumulation_steps=steps))


def run(training: Training, items: Sequence[LatentItem] | None = None, until: int | None = None) -> list[float]:
    """Train to a step; return the losses."""
    items = items or views()
    losses = []
    of_class = {item.caption: item.caption.replace("caption", "class") for item in items}
    for report in training.steps(items, [tuple(i.mean.shape[-2:]) for i in items], read_prompts, of_class):
        losses.append(report.loss)
        if report.step == until:
            break
    return losses


def weights(training: Training) -> dict[str, Tensor]:
    """Return a copy of the adapter."""
    return {name: tensor.detach().clone() for name, tensor in adapter_tensors(training.transformer).items()}


def with_loop(**changes: object) -> TrainingSettings:
    """Return the settings with another loop."""
    return dataclasses.replace(SETTINGS, loop=dataclasses.replace(SETTINGS.loop, **changes))


def test_training_moves_the_adapter_and_nothing_else() -> None:
    training = prepare()
    before = {n: p.clone() for n, p in training.transformer.named_parameters() if not p.requires_grad}
    start = weights(training)
    run(training)
    assert all(torch.equal(p, before[n]) for n, p in training.transformer.named_parameters() if n in before)
    assert any(not torch.equal(t, start[n]) for n, t in weights(training).items())


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.5}, {"caption_dropout": 0.5}, {"freeze_masked_ranks": True}])
def test_four_steps_then_resume_equals_six_steps(changes: dict[str, object]) -> None:
    settings = with_loop(**changes)
    unbroken = prepare(settings)
    losses = run(unbroken)
    first = prepare(settings)
    run(first, until=4)
    tensors, plain = first.state()
    tensors = {k: v.clone() for k, v in tensors.items()}
    second = prepare(settings)
    second.restore(tensors, plain)
    assert run(second) == losses[4:]
    assert all(torch.equal(t, weights(unbroken)[n]) for n, t in weights(second).items())
    with second.weights_to_save() as a, unbroken.weights_to_save() as b:
        assert all(torch.equal(t, adapter_tensors(b)[n]) for n, t in adapter_tensors(a).items())


@pytest.mark.parametrize(("optimizer", "rate"), [("prodigy", 1.0), ("adamw8bit", 1e-2)])
def test_other_optimizers_run_and_go_on_from_a_state_as_if_never_stopped(optimizer: str, rate: float) -> None:
    settings = dataclasses.replace(
        SETTINGS,
        adapter=TLoRAConfig(rank=32, alpha=32, min_rank=1),  # large enough a layer that 8-bit AdamW quantises its moments
        optimizer=dataclasses.replace(SETTINGS.optimizer, optimizer=optimizer, learning_rate=rate),
    )
    unbroken, first, second = (prepare(settings, WIDE) for _ in range(3))
    losses = run(unbroken)
    run(first, until=4)
    tensors, plain = first.state()
    second.restore({k: v.clone() for k, v in tensors.items()}, plain)
    assert run(second) == losses[4:]
    assert all(torch.equal(t, weights(unbroken)[n]) for n, t in weights(second).items())
    assert optimizer != "adamw8bit" or any(t.dtype == torch.uint8 for t in tensors.values())


def test_frozen_masked_ranks_stay_under_prodigy_and_are_refused_with_8_bit_adamw() -> None:
    prodigy = dataclasses.replace(SETTINGS.optimizer, optimizer="prodigy", learning_rate=1.0)
    noisy = dataclasses.replace(
        with_loop(freeze_masked_ranks=True), noise=NoiseSettings("logit_normal", logit_mean=20.0), optimizer=prodigy
    )
    training = prepare(noisy)
    start = weights(training)
    run(training)
    for name, layer in adapter_layers(training.transformer).items():
        assert torch.equal(layer.down.weight[1:], start[f"{name}.down.weight"][1:])
        assert not torch.equal(layer.up.weight[:, :1], start[f"{name}.up.weight"][:, :1])
    with pytest.raises(ValueError, match="freeze_masked_ranks cannot keep single ranks of adamw8bit's moments"):
        dataclasses.replace(noisy, optimizer=dataclasses.replace(prodigy, optimizer="adamw8bit"))


def test_resuming_with_dropout_draws_the_same_dropout() -> None:
    settings = dataclasses.replace(SETTINGS, adapter=dataclasses.replace(SETTINGS.adapter, dropout=0.5))
    unbroken, again = prepare(settings), prepare(settings)
    assert run(unbroken) == run(again)


def test_accumulation_equals_a_larger_batch() -> None:
    large = prepare(with_loop(train_batch_size=4))
    run(large)
    small = prepare(
        with_loop(train_batch_size=1, gradient_accumulation_steps=4)
    )  # only now: accelerate keeps one state a process
    run(small)
    for name, tensor in weights(large).items():
        torch.testing.assert_close(weights(small)[name], tensor, rtol=1e-3, atol=1e-5)


def test_gradient_checkpointing_learns_the_same_bits() -> None:
    plain, recomputed = prepare(), prepare(with_loop(gradient_checkpointing=True))
    assert run(plain) == run(recomputed)
    assert all(torch.equal(t, weights(plain)[n]) for n, t in weights(recomputed).items())


def test_a_loss_that_is_not_finite_stops_and_names_step_and_picture() -> None:
    items = views(1)
    broken = dataclasses.replace(items[0], mean=items[0].mean * float("nan"))
    training = prepare()
    start = weights(training)
    with pytest.raises(TrainingError, match=r"step 1: the loss is nan on 0\.png"):
        run(training, [broken])
    assert all(torch.equal(t, start[n]) for n, t in weights(training).items())


def test_frozen_masked_ranks_stay_where_they_are() -> None:
    """At full noise only the first rank takes part; momentum moves the others unless they are frozen."""
    noisy = dataclasses.replace(with_loop(freeze_masked_ranks=True), noise=NoiseSettings("logit_normal", logit_mean=20.0))
    training = prepare(noisy)
    start = weights(training)
    run(training)
    for name, layer in adapter_layers(training.transformer).items():
        assert torch.equal(layer.down.weight[1:], start[f"{name}.down.weight"][1:])
        assert not torch.equal(layer.up.weight[:, :1], start[f"{name}.up.weight"][:, :1])


def test_pictures_of_two_sizes_train_in_batches_of_one_size() -> None:
    training = prepare()
    batches: list[tuple[int, ...]] = []
    training.transformer.register_forward_pre_hook(
        lambda _module, _args, given: batches.append(tuple(given["hidden_states"].shape[:2])), with_kwargs=True
    )
    run(training, [*views(3, side=6), *views(3, side=8)])
    assert {tokens for _, tokens in batches} == {9, 16}
    assert {size for size, _ in batches} == {training.settings.loop.train_batch_size}


def test_an_adapter_of_equal_ranks_is_refused_while_masking_is_on() -> None:
    with pytest.raises(ValueError, match="min_rank equals rank"):
        dataclasses.replace(SETTINGS, adapter=TLoRAConfig(rank=4, min_rank=4))
