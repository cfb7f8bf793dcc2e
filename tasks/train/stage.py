"""Stage: train the adapter on cached latents and cached captions; the transformer is alone on the device.

Killed at any moment and run again, it goes on from the last state and ends in the same bytes. Asked to stop (SIGTERM or
SIGINT), it finishes the step, saves, and exits with 75.
"""

import dataclasses
import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL.Image import Image

from tasks.running.cli import named_section
from tasks.running.state_folder import state_folder
from tasks.tracking.live import LiveRun
from tasks.tracking.runs import PREVIEW_SERIES, training_points
from tasks.train.identity import Inputs, TrainSettings, describe_adapter, fingerprint_fields, shaping_params
from tasks.train.preview import draw_preview, preview_file
from tasks.train.provenance import circumstances
from tlora.errors import OutOfMemoryError
from tlora.flux.cached import INDEX, LatentCache, PromptCache
from tlora.flux.files import read_shape, require_base
from tlora.flux.model import choose_device, load_scheduler, load_transformer, outline_transformer
from tlora.flux.noise import MAX_TIMESTEP
from tlora.flux.spec import ModelSpec
from tlora.inject import inject_tlora_into_transformer, require_targets
from tlora.metadata.adapter import AdapterMetadata
from tlora.runtime.atomic_file import write_json, write_png
from tlora.runtime.device_lock import hold_device
from tlora.runtime.preemption import Preempted, StopRequest, asked_to_stop
from tlora.runtime.progress import Progress
from tlora.sampling import set_timesteps
from tlora.training.loop import Training, image_tokens
from tlora.training.memory_advice import MemoryPlan, explained_memory
from tlora.training.memory_estimate import Workload
from tlora.training.peak_memory import PeakMemory, free_bytes
from tlora.training.rank_activity import activity_lines, rank_activity, sampler_reach
from tlora.training.run_folder import PREVIEWS, RunFolder
from tlora.training.weight_change import check_effect, relative_change


def train(
    settings: TrainSettings, model: ModelSpec, *, prompts: Path, latents: Path, concept: Path, adapters: Path, report: Path
) -> None:
    """Train the adapter.

    Args:
        settings: Section `train`.
        model: Section `model`.
        prompts: Cached caption embeddings.
        latents: Cached views of the training pictures.
        concept: concept.yaml, for name and trigger word.
        adapters: Output folder, a folder per checkpoint and `final`.
        report: Output folder, the step log and what is not a function of the inputs.
    """
    require_base(model)
    with named_section("train"):
        require_targets(outline_transformer(model), settings.target_modules, settings.training.adapter)
    device = choose_device(model)
    inputs = Inputs(prompts, latents, concept)
    views, captions = LatentCache(latents), PromptCache(prompts)
    captions.read(sorted({str(entry["caption"]) for entry in views.entries}))  # a missing one is said before a weight is loaded
    metadata = describe_adapter(settings, model, inputs)
    accelerator = Accelerator(
        mixed_precision=settings.mixed_precision,
        gradient_accumulation_steps=settings.training.loop.gradient_accumulation_steps,
        cpu=device.type == "cpu",
    )
    fields = fingerprint_fields(settings, model, inputs, metadata, accelerator.num_processes)
    run = RunFolder(state_folder("train"), fields, settings.keep_states, writes=accelerator.is_main_process, say=_say)
    record = {"fingerprint": run.fingerprint, "params": shaping_params(settings, model), **circumstances()}
    outputs = _Outputs(run, metadata, settings, record, adapters, report)
    with _alone_on(accelerator), explained_memory(_memory_plan(settings, model, views, captions, accelerator)):
        training = _prepare(settings, model, accelerator)
        _print_rank_activity(settings, model, views.shapes()[0])
        run.resume(training)
        run.rebuild(adapters, report)
        with asked_to_stop(_say) as stop, LiveRun(metadata, say=_say) as live:
            watch = _Watch(training, model, settings, views, captions, outputs, live)
            _train_to_the_end(training, views, captions, outputs, watch, stop)
            outputs.finish(training)  # asked to stop by now, it ends as it would have


@dataclass(frozen=True)
class _Outputs:
    """What the stage writes, and when."""

    run: RunFolder
    metadata: AdapterMetadata
    settings: TrainSettings
    record: dict[str, Any]
    adapters: Path
    report: Path

    def keep(self, training: Training) -> None:
        """Write what the step calls for; the checkpoint first: a state never stands for a checkpoint that is not there."""
        step = training.step
        checkpoint = step % self.settings.checkpointing_steps == 0
        if checkpoint:
            described = dataclasses.replace(self.metadata, step=step)
            self.run.save_checkpoint(training, described, f"checkpoint-{step:06d}")
        if checkpoint or step % self.settings.state_steps == 0 or step == self.settings.training.loop.max_train_steps:
            self.run.save_state(training)
        if checkpoint:
            self.run.publish(self.adapters, self.report)

    def keep_preview(self, picture: Image, step: int) -> Path:
        """Keep a picture where resuming finds it, and show it among the outputs at once; return the latter."""
        write_png(preview_file(self.run.previews, step), picture)
        self.run.publish(self.adapters, self.report)
        return preview_file(self.report / PREVIEWS, step)

    def finish(self, training: Training) -> None:
        """Write the final adapter, the summary and the record of the run."""
        if not training.accelerator.is_main_process:
            return
        self.run.save_checkpoint(training, dataclasses.replace(self.metadata, step=training.step), "final")
        self.run.publish(self.adapters, self.report)
        with training.weights_to_save() as transformer:
            change = relative_change(transformer)
        for kind, share in change.items():
            _say(f"relative weight change of {kind}: {share:.4%}")
        last = self.run.last_line()
        write_json(self.report / "summary.json", {"steps": training.step, "last_loss": last["loss"], "relative_change": change})
        mfu = self.run.usual_mfu()
        measured = {"peak_memory": training.memory.peaks, "mfu": mfu, "matmul_rate": training.matmul_rate}
        write_json(self.report / "run.json", {**self.record, **measured})
        _say(f"mfu: {mfu:.0%} of the {training.matmul_rate / 1e12:.3g} TFLOP/s that a large product reaches here")
        _say(f"peak of memory by phase: {training.memory}")
        _say(f"{training.step} steps done, adapters in {self.adapters}")


@dataclass(frozen=True)
class _Watch:
    """Whoever looks on while training runs: MLflow, previews and the guard."""

    training: Training
    model: ModelSpec
    settings: TrainSettings
    views: LatentCache
    captions: PromptCache
    outputs: _Outputs
    live: LiveRun

    def judge(self, step: int) -> None:
        """Check the adapter's effect where it is time to; before anything is kept of the step, so that no rerun gets round it."""
        if step != self.settings.guarded_step or not self.training.accelerator.is_main_process:
            return
        change = relative_change(self.training.transformer)
        line = check_effect(change, step, self.settings.preview.max_relative_change)  # before anything is drawn with it
        drawn = self._draw(step)
        _say(f"{line}; a picture differs from the base's by {drawn[1]:.3f} of full scale" if drawn else line)

    def show(self, line: dict[str, float]) -> None:
        """Send the step's numbers, and the preview if it is time for one."""
        if self.training.accelerator.is_main_process:
            self.live.log(training_points(line))
            self.preview(int(line["step"]))

    def preview(self, step: int) -> None:
        """Draw a preview if the step calls for one that is not there yet."""
        every = self.settings.preview.preview_every
        if not (every and step and step % every == 0 and self.training.accelerator.is_main_process):
            return
        if preview_file(self.outputs.run.previews, step).exists():
            return
        if drawn := self._draw(step):
            _say(f"preview of step {step}: {self.outputs.keep_preview(drawn[0], step)}")
            self.live.show(PREVIEW_SERIES, step, preview_file(self.outputs.run.previews, step))

    def _draw(self, step: int) -> tuple[Image, float] | None:
        """Draw with the adapter and compare with the base; None where memory does not suffice, which must not end training."""
        height, width = self.views.shapes()[0]
        factor = int(json.loads((self.views.folder / INDEX).read_text(encoding="utf-8"))["pixels_per_latent"])
        text, size = self.captions.read([str(self.views.entries[0]["caption"])]), (width * factor, height * factor)
        try:
            with self.training.memory.phase("preview"):
                return draw_preview(self.training.transformer, self.model, text, size, self.settings.preview)
        except OutOfMemoryError as error:
            _say(f"step {step}: no picture is drawn: {error}")
            return None


def _memory_plan(
    settings: TrainSettings, model: ModelSpec, views: LatentCache, captions: PromptCache, accelerator: Accelerator
) -> MemoryPlan:
    """Say what memory the run will need, before a weight is loaded, and return what that was worked out from."""
    embeds, _ = captions.read([str(views.entries[0]["caption"])])
    tokens = max(image_tokens(shape) for shape in views.shapes())
    load = Workload(tokens, embeds.shape[1], model.dtype, settings.mixed_precision, model.quantisation)
    plan = MemoryPlan(read_shape(model), settings.training, settings.target_modules, load, free_bytes(accelerator.device))
    _say(plan.line())
    return plan


def _prepare(settings: TrainSettings, model: ModelSpec, accelerator: Accelerator) -> Training:
    memory, seed = PeakMemory(accelerator.device), settings.training.loop.seed
    if line := settings.training.adapter.starting_line:
        _say(line)
    with memory.phase("loading"):
        transformer = load_transformer(model).to(accelerator.device)
        layers = inject_tlora_into_transformer(transformer, settings.target_modules, settings.training.adapter, seed=seed)
        training = Training(transformer, settings.training, accelerator, memory)
    count = sum(p.numel() for p in training.parameters)
    _say(f"{layers} layers, {count:,} trainable parameters, on {accelerator.device}")
    return training


def _print_rank_activity(settings: TrainSettings, model: ModelSpec, shape: tuple[int, int]) -> None:
    if not settings.training.adapter.enable_rank_masking:
        return
    schedule, tokens = settings.training.adapter.schedule(MAX_TIMESTEP), image_tokens(shape)
    timesteps = set_timesteps(load_scheduler(model), settings.preview.num_inference_steps, tokens)
    activity = rank_activity(schedule, settings.training.noise, tokens)
    for line in activity_lines(schedule, activity, sampler_reach(schedule, timesteps)):
        _say(line)


def _alone_on(accelerator: Accelerator) -> AbstractContextManager[None]:
    """Hold the device; processes of one run that share the CPU hold it once."""
    if accelerator.device.type == "cpu" and not accelerator.is_local_main_process:
        return nullcontext()
    return hold_device(str(accelerator.device), "train")


def _train_to_the_end(
    training: Training, views: LatentCache, captions: PromptCache, outputs: _Outputs, watch: _Watch, stop: StopRequest
) -> None:
    steps = training.settings.loop.max_train_steps
    watch.preview(training.step)  # a kill may have come between a state and its picture
    with Progress("train", steps, training.step) as progress:
        for report in training.steps(views, views.shapes(), captions.read):
            line = outputs.run.record(report)
            progress.advance(f"loss {report.loss:.4f}, mfu {report.mfu:.0%},")
            watch.judge(report.step)
            outputs.keep(training)
            watch.show(line)
            if _any_process(training.accelerator, stop.is_made):
                outputs.run.save_state(training)
                raise Preempted(f"asked to stop; the state of step {report.step} is saved, run it again to go on")


def _any_process(accelerator: Accelerator, is_made: bool) -> bool:
    """Return whether any process of the run was asked to stop: all must stop after the same step, or none."""
    if accelerator.num_processes == 1:
        return is_made
    asked = accelerator.reduce(torch.tensor(float(is_made), device=accelerator.device), "sum")
    return bool(asked > 0)


def _say(line: str) -> None:
    print(f"train: {line}", flush=True)
