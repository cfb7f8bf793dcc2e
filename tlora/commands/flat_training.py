"""Train from one flat configuration, without caches on disk, by the shell that the pipeline's training stage uses too.

The phases follow one another so that the VAE is gone before the text encoders come, and both before the transformer trains.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tlora.commands.flat_config import FlatConfig
from tlora.commands.output_folder import claim_output
from tlora.data import CaptionDataset, latent_weights
from tlora.errors import SettingsError
from tlora.flux.cached import LatentItem
from tlora.flux.files import base_revision, read_family, require_base
from tlora.flux.latents import PATCH
from tlora.flux.model import encode_posterior, load_vae, outline_transformer, pixels_per_latent
from tlora.flux.spec import ModelSpec
from tlora.inject import require_targets
from tlora.metadata.adapter import AdapterMetadata
from tlora.metadata.digests import code_digest, digest_of
from tlora.pictures.decode import picture_digest
from tlora.pictures.files import SUFFIXES, list_pictures, read_caption
from tlora.pictures.views import require_resolution
from tlora.runtime.disk import require_free_space, require_writable
from tlora.runtime.preemption import asked_to_stop
from tlora.text import embed_captions
from tlora.training.memory_advice import FLAT_KEYS
from tlora.training.run import Run, TrainingData, finish, make_accelerator, prepared_training, train_to_the_end
from tlora.training.run_folder import RunFolder
from tlora.training.weight_change import check_effect, relative_change

STATES = ".state"  # below the output folder
GUARD_STEP = 50  # when the adapter's effect is checked, and once more at the end
STATE_STEPS, KEEP_STATES = 50, 2  # what a kill can cost, and how many states are kept
OUTPUT_BYTES = 1e9  # checkpoints and states of a large adapter
SHAPES_NOTHING = ("train_data_dir", "output_dir", "num_inference_steps", "guidance_scale", "leave_blocks_out")
Say = Callable[[str], None]


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
    model, settings, output = config.model(), config.training(), Path(config.output_dir)
    _require_inputs(config, model, output)
    accelerator = make_accelerator(model, settings, config.mixed_precision)
    is_first = accelerator.is_main_process
    say = say if is_first else _say_nothing
    views = _encode_views(config, model, say)
    read_prompts = embed_captions(model, ["", *(view.caption for view in views)], config.max_sequence_length)
    say("captions encoded on the CPU, text encoders freed")
    shapes = [(view.mean.shape[-2], view.mean.shape[-1]) for view in views]
    metadata = _describe(config, model)
    fields = _fingerprint_fields(config, metadata, accelerator.num_processes)
    run = Run(
        model,
        settings,
        metadata,
        TrainingData(views, shapes, read_prompts, config.max_sequence_length),
        accelerator,
        RunFolder(output / STATES, fields, KEEP_STATES, writes=is_first, say=say),
        adapters=output,
        report=output,
        checkpointing_steps=config.checkpointing_steps,
        state_steps=STATE_STEPS,
        checkpoint_name="checkpoint-{step}",
    )
    with prepared_training(run, FLAT_KEYS, config.num_inference_steps, "tlora train", say) as training:
        if is_first:
            claim_output(output, run.folder.fingerprint, say)
        run.publish()
        with asked_to_stop(say) as stop:
            for line in train_to_the_end(run, training, lambda: stop.is_made):
                if is_first and line["step"] in (GUARD_STEP, config.max_train_steps):
                    say(check_effect(relative_change(training.transformer), int(line["step"])))
            if is_first:
                finish(run, training, say)  # asked to stop by now, it ends as it would have


def _say_nothing(line: str) -> None:
    """Leave it to the first of several processes."""


def _require_inputs(config: FlatConfig, model: ModelSpec, output: Path) -> None:
    """Say what is wrong before anything is loaded."""
    require_base(model)
    require_resolution(config.views(), model)
    base = outline_transformer(model)
    require_targets(base, config.target_modules, config.adapter(), leave_blocks_out=config.leave_blocks_out)
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
        base_revision=base_revision(model),
        base_quantisation=model.quantisation,
        family=read_family(model).name,
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
