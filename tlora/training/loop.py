"""Train an adapter: one step, and a generator of reports. Whoever iterates logs, saves, draws the bar and stops.

Every random number is a function of (seed, step, sample), and a step's samples are spread over micro-steps and processes, so
neither resuming, nor accumulation, nor the number of processes changes what a run learns (beyond float rounding).
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from tlora.checkpoint import adapter_tensors
from tlora.errors import SettingsError, TrainingError
from tlora.flux.cached import LatentItem
from tlora.flux.latents import PATCH
from tlora.flux.model import TRAINING_GUIDANCE, Conditioning, predict_velocity
from tlora.flux.noise import MAX_TIMESTEP, draw_sigma, mix_noise, sample_generator, velocity_target
from tlora.inject import adapter_layers, family_of, mask_at, tlora_parameters
from tlora.training.frozen_ranks import freeze_ranks
from tlora.training.mfu import matmul_rate, step_cost
from tlora.training.optimizer import build_optimizer, learning_rate, optimizer_tensors, restore_optimizer
from tlora.training.peak_memory import PeakMemory
from tlora.training.recompute import compile_blocks, recompute_blocks
from tlora.training.sample_order import SamplePlan
from tlora.training.settings import TrainingSettings

ReadPrompts = Callable[[Sequence[str]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step did.

    Args:
        step: Steps taken so far, this one included.
        loss: Mean squared error of the velocity, over this process's samples.
        learning_rate: Rate of this step.
        grad_norm: Norm of the gradient before clipping.
        active_rank: Mean active rank over the samples.
        seconds: Wall time.
        mfu: Model FLOPs of this process's samples in that time, as a share of the matmul rate measured on its device.
        preservation: What was added to the loss for output that is not the base's any more; None where that is off.
    """

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    active_rank: float
    seconds: float
    mfu: float
    preservation: float | None = None


@dataclass(frozen=True)
class _Level:
    """What is drawn first of a sample: its noise level, whether its caption is dropped; and the rest of its random source."""

    sigma: Tensor
    is_dropped: bool
    generator: torch.Generator


@dataclass(frozen=True)
class _Sample:
    """One sample of one step, drawn from its own random source."""

    latents: Tensor
    noise: Tensor
    sigma: Tensor
    caption: str
    picture: str
    loss_mask: Tensor | None
    class_caption: str | None
    weight: float


@dataclass(frozen=True)
class _Inputs:
    """What the transformer is asked."""

    noisy: Tensor
    timestep: Tensor
    conditioning: Conditioning
    mask: Tensor | None

    def predict(self, transformer: nn.Module, scale: float = 1.0) -> Tensor:
        """Ask it, the adapter at this strength."""
        return predict_velocity(transformer, self.noisy, self.timestep, self.conditioning, self.mask, scale)

    def rows_from(self, first: int) -> "_Inputs":
        """Return those from a row on."""
        text = self.conditioning
        text = Conditioning(text.prompt_embeds[first:], text.pooled_prompt_embeds[first:], text.guidance)
        return _Inputs(self.noisy[first:], self.timestep[first:], text, None if self.mask is None else self.mask[first:])


class Training:
    """An adapter in training: it can be saved and restored whole between any two steps.

    Args:
        transformer: Prepared by `inject_tlora_into_transformer`, on its device.
        settings: Everything that shapes the run.
        accelerator: Mixed precision, accumulation and processes.
        memory: Keeps the peak by phase; one that has seen the loading, say.

    Raises:
        SettingsError: If the transformer carries no adapter, or the accelerator accumulates over another number of micro-steps.
    """

    def __init__(
        self,
        transformer: nn.Module,
        settings: TrainingSettings,
        accelerator: Accelerator,
        memory: PeakMemory | None = None,
    ) -> None:
        self.settings, self.accelerator, self.step = settings, accelerator, 0
        self.transformer = transformer
        self.parameters = list(tlora_parameters(transformer))
        if not self.parameters:
            raise SettingsError("the transformer carries no adapter to train")
        wanted, have = settings.loop.gradient_accumulation_steps, accelerator.gradient_accumulation_steps
        if wanted != have:
            raise SettingsError(f"gradient_accumulation_steps is {wanted} but the accelerator's is {have}")
        if settings.loop.recompute_every:
            recompute_blocks(transformer, settings.loop.recompute_every)
        if settings.loop.compile:
            compile_blocks(transformer)
        transformer.train()
        self._optimizer = build_optimizer(self.parameters, settings.optimizer)
        self._prepared, self.optimizer = accelerator.prepare(transformer, self._optimizer)
        self._average = [p.detach().clone() for p in self.parameters] if settings.loop.ema_decay else []
        self._cost, self._text_tokens = step_cost(transformer), 0
        self._forward_cost = step_cost(transformer, backward=False)
        computed_in = torch.bfloat16 if accelerator.mixed_precision == "bf16" else transformer.dtype
        self.matmul_rate = matmul_rate(accelerator.device, computed_in)
        self.memory = memory or PeakMemory(accelerator.device)

    def steps(
        self,
        views: Sequence[LatentItem],
        shapes: Sequence[tuple[int, int]],
        read_prompts: ReadPrompts,
        class_captions: Mapping[str, str] | None = None,
        prior: int = 0,
    ) -> Iterator[StepReport]:
        """Train to the last step, yielding a report after each.

        Args:
            views: Cached views.
            shapes: Height and width of each view's latents.
            read_prompts: Captions to embeddings, (batch, length, width) and (batch, pooled).
            class_captions: Caption -> the same without the trigger word, for preservation; a caption that is not there, or is the
                same without it, is not preserved.
            prior: How many of the views, the last ones, are prior pictures.

        Raises:
            TrainingError: If a loss or a gradient is not finite; the adapter is then as after the step before.
            OutOfMemoryError: If memory runs out, with the peak by phase; no batch is ever left out.
        """
        loop, per_step = self.settings.loop, self._per_step
        own, share = len(shapes) - prior, self.settings.prior.prior_share
        plan = SamplePlan(shapes[:own], per_step, loop.max_train_steps, loop.seed, shapes[own:], share)
        while self.step < loop.max_train_steps:
            started = time.perf_counter()
            indices = plan.indices(self.step)
            tokens = image_tokens(shapes[indices[0]])
            levels = [self._draw_level(tokens, slot) for slot in range(per_step)]
            ranks = self._active_ranks(levels)
            samples = [
                (slot, self._draw(views[i], levels[slot], self._numbered(plan, slot, is_prior=i >= own), class_captions or {}))
                for slot, i in enumerate(indices)
                if self._is_mine(slot)
            ]
            loss, preservation, norm = self._optimise(samples, int(ranks.max()), read_prompts)
            rate = learning_rate(self.settings.optimizer, self.step, loop.max_train_steps)
            self.step += 1
            seconds = time.perf_counter() - started
            extra = sum(sample.class_caption is not None for _, sample in samples)
            flops = self._cost.flops(len(samples) + extra, tokens, self._text_tokens)
            flops += self._forward_cost.flops(extra, tokens, self._text_tokens)
            mfu = flops / seconds / self.matmul_rate
            yield StepReport(self.step, loss, rate, norm, ranks.float().mean().item(), seconds, mfu, preservation)

    def state(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return everything that continuing needs, as tensors and strings; copy them before the next step."""
        tensors, plain = optimizer_tensors(self._optimizer)
        tensors |= {f"adapter.{name}": t.detach() for name, t in adapter_tensors(self.transformer).items()}
        tensors |= {f"average.{i}": t for i, t in enumerate(self._average)}
        return tensors, {"step": str(self.step), "optimizer": plain}

    def restore(self, tensors: dict[str, Tensor], plain: dict[str, str]) -> None:
        """Continue from what `state` returned."""
        with torch.no_grad():
            for name, tensor in adapter_tensors(self.transformer).items():
                tensor.copy_(tensors[f"adapter.{name}"])
            for i, mean in enumerate(self._average):
                mean.copy_(tensors[f"average.{i}"])
        moments = {k: v for k, v in tensors.items() if k.startswith("optimizer.")}
        restore_optimizer(self._optimizer, moments, plain["optimizer"])
        self.step = int(plain["step"])

    @contextmanager
    def weights_to_save(self) -> Iterator[nn.Module]:
        """Lend the transformer with the weights that a checkpoint holds: the running average where one is kept."""
        if not self._average:
            yield self.transformer
            return
        kept = [p.detach().clone() for p in self.parameters]
        self._put(self._average)
        try:
            yield self.transformer
        finally:
            self._put(kept)

    def _put(self, values: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)

    @property
    def _per_step(self) -> int:
        """How many samples a step has, over all micro-steps and processes."""
        loop = self.settings.loop
        return loop.train_batch_size * loop.gradient_accumulation_steps * self.accelerator.num_processes

    def _is_mine(self, slot: int) -> bool:
        """Spread the samples of a step: slot -> micro-step, then process, then place in the micro-batch."""
        batch = self.settings.loop.train_batch_size
        return slot // batch % self.accelerator.num_processes == self.accelerator.process_index

    def _active_ranks(self, levels: Sequence[_Level]) -> Tensor:
        """Return the active rank of every sample of the step, over all processes."""
        mask = mask_at(self.settings.adapter, torch.cat([level.sigma for level in levels]) * MAX_TIMESTEP)
        return torch.full((len(levels),), self.settings.adapter.rank) if mask is None else mask.sum(dim=1)

    def _draw_level(self, tokens: int, slot: int) -> _Level:
        generator = sample_generator(self.settings.loop.seed, self.step, slot)
        sigma = draw_sigma(self.settings.noise, tokens, generator, family_of(self.transformer))
        return _Level(sigma, torch.rand(1, generator=generator).item() < self.settings.loop.caption_dropout, generator)

    def _optimise(
        self, samples: Sequence[tuple[int, _Sample]], highest_rank: int, read_prompts: ReadPrompts
    ) -> tuple[float, float | None, float]:
        """Take one optimizer step over all micro-batches; return mean loss, what preservation added to it, and gradient norm."""
        loop, optimizer = self.settings.loop, self.settings.optimizer
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(optimizer, self.step, loop.max_train_steps)
        losses, added, norm = [], [], 0.0
        for first in range(0, len(samples), loop.train_batch_size):
            batch = samples[first : first + loop.train_batch_size]
            with self.accelerator.accumulate(self._prepared):
                with self.memory.phase("forward"):
                    loss, preservation = self._losses([sample for _, sample in batch], batch[0][0], read_prompts)
                losses.append(self._finite(loss, "loss", batch))
                if preservation is not None:
                    added.append(self._finite(preservation, "loss of preservation", batch))
                with self.memory.phase("backward"):
                    self.accelerator.backward(loss if preservation is None else loss + preservation)
                if self.accelerator.sync_gradients:
                    norm = self._finite(self._clip(), "gradient", batch)
                with self.memory.phase("optimizer"), self._masked_ranks_kept(highest_rank):
                    self.optimizer.step()
                self.optimizer.zero_grad()
        if self._average:
            torch._foreach_lerp_(self._average, [p.detach() for p in self.parameters], 1 - loop.ema_decay)
        total = sum(added) / len(losses) if self.settings.preservation.is_on else None
        return sum(losses) / len(losses), total, norm

    def _losses(self, batch: Sequence[_Sample], slot: int, read_prompts: ReadPrompts) -> tuple[Tensor, Tensor | None]:
        """Return the loss on the pictures, and what is added to it for output that is not the base's; None where nothing is."""
        device = self.accelerator.device
        if self.settings.adapter.dropout:
            torch.manual_seed(sample_generator(self.settings.loop.seed, self.step, slot).initial_seed() % 2**62)
        kept = [sample for sample in batch if sample.class_caption is not None]
        samples = [*batch, *kept]  # the latter a second time, under the class word: one forward of all, as several processes need
        latents = torch.stack([s.latents for s in samples]).to(device)
        noise = torch.stack([s.noise for s in samples]).to(device)
        sigma = torch.cat([s.sigma for s in samples])
        embeds, pooled = read_prompts([*(s.caption for s in batch), *(str(s.class_caption) for s in kept)])
        self._text_tokens = embeds.shape[1]
        mask = mask_at(self.settings.adapter, sigma * MAX_TIMESTEP)
        inputs = _Inputs(
            mix_noise(latents, noise, sigma.to(device)),
            (sigma * MAX_TIMESTEP).to(device),
            Conditioning(embeds.to(device), pooled.to(device), TRAINING_GUIDANCE),
            None if mask is None else mask.to(device),
        )
        prediction, count = inputs.predict(self._prepared), len(batch)
        target, masks, weights = velocity_target(latents, noise)[:count], [s.loss_mask for s in batch], [s.weight for s in batch]
        loss = masked_mse(prediction[:count], target, masks, weights)
        if not kept:
            return loss, None
        with torch.no_grad():
            by_base = inputs.rows_from(count).predict(self.transformer, scale=0.0)
        moved = (prediction[count:] - by_base).square().flatten(1).mean(dim=1).sum() / count
        return loss, self.settings.preservation.preserve / self.settings.preservation.preserve_share * moved

    def _numbered(self, plan: SamplePlan, slot: int, *, is_prior: bool) -> int | None:
        """Return a sample's number among those of the run that are no prior pictures; None for a prior picture."""
        return None if is_prior else self.step * self._per_step + slot - plan.prior_before(self.step, slot)

    def _draw(self, view: LatentItem, level: _Level, number: int | None, class_captions: Mapping[str, str]) -> _Sample:
        """Draw the rest of a sample, from what is left of its random source."""
        latents = view.mean + view.std * torch.randn(view.mean.shape, generator=level.generator)
        noise = torch.randn(view.mean.shape, generator=level.generator)
        caption = "" if level.is_dropped else view.caption
        other = class_captions.get(caption, caption)
        is_kept = number is not None and other != caption and self.settings.preservation.takes(number)
        weight = self.settings.prior.prior_loss_weight if number is None else 1.0
        return _Sample(latents, noise, level.sigma, caption, view.picture, view.loss_mask, other if is_kept else None, weight)

    def _clip(self) -> Tensor:
        limit = self.settings.optimizer.max_grad_norm or math.inf
        return self.accelerator.clip_grad_norm_(self.parameters, limit)

    def _finite(self, value: Tensor, what: str, batch: Sequence[tuple[int, _Sample]]) -> float:
        number = float(value.detach())
        if not math.isfinite(number):
            self._optimizer.zero_grad()
            pictures = ", ".join(sorted({sample.picture for _, sample in batch}))
            raise TrainingError(
                f"step {self.step + 1}: the {what} is {number} on {pictures}: lower learning_rate, or look at the picture"
            )
        return number

    def _masked_ranks_kept(self, highest_rank: int) -> AbstractContextManager[None]:
        if not self.settings.loop.freeze_masked_ranks:
            return nullcontext()
        return freeze_ranks(self._optimizer, adapter_layers(self.transformer).values(), highest_rank)


def masked_mse(
    prediction: Float[Tensor, "batch c h w"],
    target: Float[Tensor, "batch c h w"],
    masks: Sequence[Tensor | None],
    counts: Sequence[float] | None = None,
) -> Float[Tensor, ""]:
    """Return the mean squared error; of a sample that has a loss mask, its mean as the mask weighs it.

    Each sample counts as much as any other, however little of it is masked in, so micro-batches and processes can be averaged;
    unless `counts` says what each one counts.
    """
    counted = torch.tensor([1.0] * len(masks) if counts is None else counts, device=prediction.device)
    if all(mask is None for mask in masks) and bool((counted == 1).all()):
        return F.mse_loss(prediction, target)
    error = (prediction - target).square().mean(dim=1)
    weights = torch.stack([torch.ones(error.shape[1:]) if mask is None else mask for mask in masks]).to(error.device)
    return ((error * weights).sum(dim=(1, 2)) / weights.sum(dim=(1, 2)) * counted).mean()


def image_tokens(shape: tuple[int, int]) -> int:
    """Return how many packed tokens latents of (height, width) make."""
    return shape[0] * shape[1] // PATCH**2
