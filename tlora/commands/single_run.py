"""Train from one flat configuration, in one process, without caches on disk, by the engine of the pipeline's training stage.

The phases follow one another so that the VAE is gone before the text encoders come, and both before the transformer trains.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from tlora.commands.flat_config import FlatConfig
from tlora.commands.output_folder import claim_output
from tlora.data import CaptionDataset, latent_weights
from tlora.errors import SettingsError
from tlora.flux.cached import LatentItem
from tlora.flux.files import base_digest, read_shape, require_base
from tlora.flux.latents import PATCH
from tlora.flux.model import (
    choose_device,
    encode_posterior,
    load_scheduler,
    load_transformer,
    load_vae,
    outline_transformer,
    pixels_per_latent,
)
from tlora.flux.noise import MAX_TIMESTEP
from tlora.flux.spec import ModelSpec
from tlora.inject import inject_tlora_into_transformer, require_targets
from tlora.metadata.adapter import AdapterMetadata
from tlora.metadata.digests import code_digest, digest_of
from tlora.pictures.decode import picture_digest
from tlora.pictures.files import SUFFIXES, list_pictures, read_caption
from tlora.pictures.views import require_resolution
from tlora.runtime.device_lock import hold_device
from tlora.runtime.disk import require_free_space, require_writable
from tlora.runtime.preemption import Preempted, StopRequest, asked_to_stop
from tlora.runtime.progress import Progress
from tlora.sampling import set_timesteps
from tlora.text import embed_captions
from tlora.training.loop import ReadPrompts, Training, image_tokens
from tlora.training.memory_advice import FLAT_KEYS, MemoryPlan, explained_memory
from tlora.training.memory_estimate import Workload
from tlora.training.peak_memory import PeakMemory, free_bytes
from tlora.training.rank_activity import activity_lines, rank_activity, sampler_reach
from tlora.training.run_folder import RunFolder
from tlora.training.weight_change import relative_change

STATES = ".state"  # below the output folder
STATE_STEPS, KEEP_STATES = 50, 2  # what a kill can cost, and how many states are kept
OUTPUT_BYTES = 1e9  # checkpoints and states of a large adapter
SHAPES_NOTHING = ("train_data_dir", "output_dir", "num_inference_steps", "guidance_scale")
Say = Callable[[str], None]


@dataclass(frozen=True)
class _Run:
    """A run on its way: what trains, on what, and where it is kept."""

    training: Training
    views: Sequence[LatentItem]
    read_prompts: ReadPrompts
    folder: RunFolder
    metadata: AdapterMetadata
    output: Path


def train_from_config(config: FlatConfig, say: Say) -> None:
    """Train an adapter, writing `checkpoint-<step>/`, `final/` and `log.jsonl` below the output folder.

    Killed and run again, it goes on from its last state and ends in the same bytes.

    Args:
        config: The flat configuration.
        say: Where lines for people go.

    Raises:
        Preempted: If asked to stop; the step is then saved.
        TloraError: If anything given is wrong, before a weight is loaded where it can be known.
    """
    model, output = config.model(), Path(config.output_dir)
    _require_inputs(config, model, output)
    views = _encode_views(config, model, say)
    read_prompts = embed_captions(model, ["", *(view.caption for view in views)], config.max_sequence_length)
    say("captions encoded on the CPU, text encoders freed")
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        cpu=choose_device(model).type == "cpu",
    )
    metadata = _describe(config, model)
    plan = _memory_plan(config, model, _shapes(views), accelerator)
    say(plan.line())
    with hold_device(str(accelerator.device), "tlora train"), explained_memory(plan):
        training = _prepare(config, model, accelerator, say)
        fields = _fingerprint_fields(config, metadata, accelerator.num_processes)
        folder = RunFolder(output / STATES, fields, KEEP_STATES, writes=accelerator.is_main_process, say=say)
        run = _Run(training, views, read_prompts, folder, metadata, output)
        _say_rank_activity(config, model, _shapes(views)[0], say)
        folder.resume(training)
        if accelerator.is_main_process:
            claim_output(output, folder.fingerprint, say)
        folder.publish(output, output)
        with asked_to_stop(say) as stop:
            _train_to_the_end(run, config.checkpointing_steps, stop)
            _finish(run, say)  # asked to stop by now, it ends as it would have


def _require_inputs(config: FlatConfig, model: ModelSpec, output: Path) -> None:
    """Say what is wrong before anything is loaded."""
    require_base(model)
    require_resolution(config.views(), model)
    require_targets(outline_transformer(model), config.target_modules, config.adapter())
    if not config.train_data_dir:
        raise SettingsError("train_data_dir is missing: the folder of pictures to train on")
    if not Path(config.train_data_dir).is_dir():
        raise SettingsError(f"train_data_dir: {config.train_data_dir}: no such folder: the pictures to train on")
    require_writable(output)
    require_free_space(output, OUTPUT_BYTES, "free some, or choose another output_dir")


def _encode_views(config: FlatConfig, model: ModelSpec, say: Say) -> list[LatentItem]:
    folder = Path(config.train_data_dir)
    silent = [path.name for path in list_pictures(folder) if not read_caption(path)]
    vae = load_vae(model)
    pictures = CaptionDataset(folder, config.views(), pixels_per_latent(vae) * PATCH)
    say(f"{len(pictures)} views of the pictures in {folder}")
    if silent:
        say(f"warning: no caption for {len(silent)} of the pictures, such as {silent[0]}: they train on an empty one")
    views = []
    for picture in pictures:
        mean, std = encode_posterior(vae, picture.pixels[None])
        weights = picture.loss_mask
        mask = None if weights is None else latent_weights(weights, pixels_per_latent(vae), picture.name)
        views.append(LatentItem(picture.name, picture.caption, mean[0], std[0], mask))
    return views


def _describe(config: FlatConfig, model: ModelSpec) -> AdapterMetadata:
    """Return what every adapter of the run says of itself, at step 0."""
    return AdapterMetadata(
        config.adapter(),
        config.target_modules,
        base=model.path,
        base_revision=base_digest(model),
        base_quantisation=model.quantisation,
        data_digest=_data_digest(Path(config.train_data_dir)),
        params_digest=digest_of(_shaping(config)),
        code_digest=code_digest(__name__, ["tlora"]),
    )


def _data_digest(folder: Path) -> str:
    """Return the hash of every picture and text of a folder, masks included."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in (*SUFFIXES, ".txt"))
    return digest_of([[path.name, picture_digest(path.read_bytes())] for path in files])


def _shaping(config: FlatConfig) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in SHAPES_NOTHING}


def _fingerprint_fields(config: FlatConfig, metadata: AdapterMetadata, processes: int) -> dict[str, Any]:
    """Return everything that the result is a function of, by name, so that a difference can be named."""
    return {
        "config": _shaping(config),
        "base_revision": metadata.base_revision,
        "data": metadata.data_digest,
        "code": metadata.code_digest,
        "processes": processes,
    }


def _memory_plan(config: FlatConfig, model: ModelSpec, shapes: Sequence[tuple[int, int]], accelerator: Accelerator) -> MemoryPlan:
    tokens, text_tokens = max(map(image_tokens, shapes)), config.max_sequence_length
    load = Workload(tokens, text_tokens, model.dtype, config.mixed_precision, model.quantisation)
    available = free_bytes(accelerator.device)
    return MemoryPlan(read_shape(model), config.training(), config.target_modules, load, available, FLAT_KEYS)


def _prepare(config: FlatConfig, model: ModelSpec, accelerator: Accelerator, say: Say) -> Training:
    memory = PeakMemory(accelerator.device)
    if line := config.adapter().starting_line:
        say(line)
    with memory.phase("loading"):
        transformer = load_transformer(model).to(accelerator.device)
        layers = inject_tlora_into_transformer(transformer, config.target_modules, config.adapter(), seed=config.seed)
        training = Training(transformer, config.training(), accelerator, memory)
    say(f"{layers} layers, {sum(p.numel() for p in training.parameters):,} trainable parameters, on {accelerator.device}")
    return training


def _shapes(views: Sequence[LatentItem]) -> list[tuple[int, int]]:
    return [(view.mean.shape[-2], view.mean.shape[-1]) for view in views]


def _say_rank_activity(config: FlatConfig, model: ModelSpec, shape: tuple[int, int], say: Say) -> None:
    if not config.enable_rank_masking:
        return
    schedule, tokens = config.adapter().schedule(MAX_TIMESTEP), image_tokens(shape)
    reach = sampler_reach(schedule, set_timesteps(load_scheduler(model), config.num_inference_steps, tokens))
    for line in activity_lines(schedule, rank_activity(schedule, config.training().noise, tokens), reach):
        say(line)


def _train_to_the_end(run: _Run, checkpointing_steps: int, stop: StopRequest) -> None:
    """Train, saving what each step calls for; the checkpoint first: a state never stands for a checkpoint that is not there."""
    training, steps = run.training, run.training.settings.loop.max_train_steps
    with Progress("train", steps, training.step) as progress:
        for report in training.steps(run.views, _shapes(run.views), run.read_prompts):
            run.folder.record(report)
            progress.advance(f"loss {report.loss:.4f}, mfu {report.mfu:.0%},")
            checkpoint = report.step % checkpointing_steps == 0
            if checkpoint:
                described = dataclasses.replace(run.metadata, step=report.step)
                run.folder.save_checkpoint(training, described, f"checkpoint-{report.step}")
            if checkpoint or stop.is_made or report.step % STATE_STEPS == 0 or report.step == steps:
                run.folder.save_state(training)
            if checkpoint:
                run.folder.publish(run.output, run.output)
            if stop.is_made:
                raise Preempted(f"asked to stop; the state of step {report.step} is saved, run it again to go on")


def _finish(run: _Run, say: Say) -> None:
    if not run.training.accelerator.is_main_process:
        return
    run.folder.save_checkpoint(run.training, dataclasses.replace(run.metadata, step=run.training.step), "final")
    run.folder.publish(run.output, run.output)
    changes = relative_change(run.training.transformer)
    say(f"relative weight change: {', '.join(f'{kind} {share:.3%}' for kind, share in changes.items())}")
    rate = run.training.matmul_rate
    say(f"mfu: {run.folder.usual_mfu():.0%} of the {rate / 1e12:.3g} TFLOP/s that a large product reaches here")
    say(f"{run.training.step} steps done, adapters in {run.output}")
