"""A run from the plan of its memory to its last adapter: what the pipeline's stage and `tlora train` have in common.

Whoever runs it iterates over the steps, and may show them or refuse to go on. A step comes before anything of it is kept, so
that what is refused once is refused again after a restart.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator

from tlora.flux.cached import LatentItem
from tlora.flux.files import read_family, read_shape
from tlora.flux.model import choose_device, load_scheduler, load_transformer
from tlora.flux.noise import MAX_TIMESTEP
from tlora.flux.spec import ModelSpec
from tlora.inject import inject_tlora_into_transformer
from tlora.metadata.adapter import FINAL, AdapterMetadata
from tlora.runtime.device_lock import hold_device
from tlora.runtime.preemption import Preempted
from tlora.runtime.progress import Progress
from tlora.sampling import set_timesteps
from tlora.training.loop import ReadPrompts, Training, image_tokens
from tlora.training.memory_advice import Keys, MemoryPlan, explained_memory
from tlora.training.memory_estimate import Workload
from tlora.training.peak_memory import PeakMemory, free_bytes
from tlora.training.rank_activity import activity_lines, rank_activity, sampler_reach
from tlora.training.run_folder import RunFolder
from tlora.training.settings import TrainingSettings
from tlora.training.weight_change import relative_change

Say = Callable[[str], None]


@dataclass(frozen=True)
class TrainingData:
    """What is trained on.

    Args:
        views: Encoded views.
        shapes: Height and width of each view's latents.
        read_prompts: Captions to embeddings.
        text_tokens: Length of an embedded caption.
        class_captions: Caption -> the same without the trigger word, for preservation.
        prior: How many of the views, the last ones, are prior pictures, of other things.
    """

    views: Sequence[LatentItem]
    shapes: Sequence[tuple[int, int]]
    read_prompts: ReadPrompts
    text_tokens: int
    class_captions: Mapping[str, str] = field(default_factory=dict)
    prior: int = 0


@dataclass(frozen=True)
class Run:
    """A run: what trains, on what, and what it leaves.

    Args:
        model: The base model.
        settings: Everything that shapes the run.
        metadata: What every adapter of the run says of itself, at step 0.
        data: What is trained on.
        accelerator: Mixed precision, accumulation and processes.
        folder: The run's state.
        adapters: Output folder, a folder per checkpoint and `final`.
        report: Output folder of the step log.
        checkpointing_steps: Steps between adapter checkpoints.
        state_steps: Steps between saved states; what a kill can cost.
        checkpoint_name: Name of a checkpoint's folder, with its step in it.
    """

    model: ModelSpec
    settings: TrainingSettings
    metadata: AdapterMetadata
    data: TrainingData
    accelerator: Accelerator
    folder: RunFolder
    adapters: Path
    report: Path
    checkpointing_steps: int
    state_steps: int
    checkpoint_name: str = "checkpoint-{step:06d}"

    def save_adapter(self, training: Training, name: str) -> None:
        """Save the adapter as it is now."""
        described = dataclasses.replace(self.metadata, step=training.step)
        self.folder.save_checkpoint(training, described, name)

    def publish(self) -> None:
        """Show among the outputs what there is so far."""
        self.folder.publish(self.adapters, self.report)


def make_accelerator(model: ModelSpec, settings: TrainingSettings, mixed_precision: str) -> Accelerator:
    """Return what trains, on the device that the model's settings choose; of several processes, each makes its own."""
    micro_steps, on_cpu = settings.loop.gradient_accumulation_steps, choose_device(model).type == "cpu"
    return Accelerator(mixed_precision=mixed_precision, gradient_accumulation_steps=micro_steps, cpu=on_cpu)


@contextmanager
def prepared_training(run: Run, keys: Keys, num_inference_steps: int, command: str, say: Say) -> Iterator[Training]:
    """Lend the training, its device held, as it stands at the last saved state.

    Args:
        run: What trains.
        keys: What the settings are called where the run is configured, for advice about memory.
        num_inference_steps: Denoising steps of pictures; ranks that so many steps never use are warned about.
        command: Who holds the device.
        say: Where lines for people go.

    Raises:
        OutOfMemoryError: If memory runs out, here or while the training is lent, with what would make the run fit.
    """
    plan = _memory_plan(run, keys)
    say(plan.line())
    with _alone_on(run.accelerator, command), explained_memory(plan):
        training = _prepare(run, say)
        _say_rank_activity(run, num_inference_steps, say)
        run.folder.resume(training)
        yield training


@dataclass(frozen=True)
class EarlyEnd:
    """When a run ends before its last step; asked in the first process alone.

    Args:
        measure: Measure the adapter as a checkpoint would save it; what it returns goes into the step's line of the log.
        is_reached: Whether the log so far says that it is good.
    """

    measure: Callable[[], Mapping[str, float]]
    is_reached: Callable[[], bool]


def train_to_the_end(
    run: Run, training: Training, is_stop_asked: Callable[[], bool], early_end: EarlyEnd | None = None
) -> Iterator[dict[str, float]]:
    """Train, yielding each step's line of the log before what the step calls for is saved.

    The checkpoint is saved first: a state never stands for a checkpoint that is not there, nor for one that was not measured.

    Args:
        run: What trains, and what it leaves.
        training: As it stands.
        is_stop_asked: Whether to stop after this step; asked in every process, and one is enough.
        early_end: What ends the run with a checkpoint before the last step; None: nothing.

    Raises:
        Preempted: If asked to stop; the step is then saved.
    """
    last, is_first = run.settings.loop.max_train_steps, run.accelerator.is_main_process

    def is_over() -> bool:
        return early_end is not None and _any_process(run.accelerator, is_first and early_end.is_reached())

    if is_over():
        return  # it had come to its end, and was stopped before it could say so
    with Progress("train", last, training.step) as progress:
        data = run.data
        for report in training.steps(data.views, data.shapes, data.read_prompts, data.class_captions, data.prior):
            checkpoint = report.step % run.checkpointing_steps == 0
            line = run.folder.record(report, early_end.measure() if early_end and checkpoint and is_first else None)
            progress.advance(f"loss {report.loss:.4f}, mfu {report.mfu:.0%},")
            yield line
            stop = _any_process(run.accelerator, is_stop_asked())
            if checkpoint:
                run.save_adapter(training, run.checkpoint_name.format(step=report.step))
            if checkpoint or stop or report.step % run.state_steps == 0 or report.step == last:
                run.folder.save_state(training)
            if checkpoint:
                run.publish()
                if is_over():
                    return
            if stop:
                raise Preempted(f"asked to stop; the state of step {report.step} is saved, run it again to go on")


def finish(run: Run, training: Training, say: Say) -> dict[str, float]:
    """Save the final adapter, say what came of the run, and return how much the adapter changes each kind of layer."""
    run.save_adapter(training, FINAL)
    run.publish()
    with training.weights_to_save() as transformer:
        change = relative_change(transformer)
    say(f"relative weight change: {', '.join(f'{kind} {share:.3%}' for kind, share in change.items())}")
    rate = training.matmul_rate
    say(f"mfu: {run.folder.usual_mfu():.0%} of the {rate / 1e12:.3g} TFLOP/s that a large product reaches here")
    say(f"peak of memory by phase: {training.memory}")
    say(f"{training.step} steps done, adapters in {run.adapters}")
    return change


def _memory_plan(run: Run, keys: Keys) -> MemoryPlan:
    tokens = max(map(image_tokens, run.data.shapes))
    load = Workload(tokens, run.data.text_tokens, run.model.dtype, run.accelerator.mixed_precision, run.model.quantisation)
    available = free_bytes(run.accelerator.device)
    return MemoryPlan(read_shape(run.model), run.settings, run.metadata.target_modules, load, available, keys)


def _alone_on(accelerator: Accelerator, command: str) -> AbstractContextManager[None]:
    """Hold the device; processes of one run that share the CPU hold it once."""
    if accelerator.device.type == "cpu" and not accelerator.is_local_main_process:
        return nullcontext()
    return hold_device(str(accelerator.device), command)


def _prepare(run: Run, say: Say) -> Training:
    memory, config = PeakMemory(run.accelerator.device), run.settings.adapter
    if line := config.starting_line:
        say(line)
    with memory.phase("loading"):
        transformer = load_transformer(run.model).to(run.accelerator.device)
        targets, seed = run.metadata.target_modules, run.settings.loop.seed
        layers = inject_tlora_into_transformer(
            transformer, targets, config, seed=seed, leave_blocks_out=True
        )  # or `require_targets` has refused them, before a weight was loaded
        training = Training(transformer, run.settings, run.accelerator, memory)
    count = sum(parameter.numel() for parameter in training.parameters)
    say(f"{layers} layers, {count:,} trainable parameters, on {run.accelerator.device}")
    return training


def _say_rank_activity(run: Run, num_inference_steps: int, say: Say) -> None:
    if not run.settings.adapter.enable_rank_masking:
        return
    schedule, tokens = run.settings.adapter.schedule(MAX_TIMESTEP), image_tokens(run.data.shapes[0])
    family = read_family(run.model)
    reach = sampler_reach(schedule, set_timesteps(load_scheduler(run.model), num_inference_steps, tokens, family))
    for line in activity_lines(schedule, rank_activity(schedule, run.settings.noise, tokens, family), reach):
        say(line)


def _any_process(accelerator: Accelerator, is_asked: bool) -> bool:
    """Return whether any process of the run was asked to stop: all must stop after the same step, or none."""
    if accelerator.num_processes == 1:
        return is_asked
    asked = accelerator.reduce(torch.tensor(float(is_asked), device=accelerator.device), "sum")
    return bool(asked > 0)
