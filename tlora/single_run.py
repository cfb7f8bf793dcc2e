"""Training and drawing from one flat configuration, in one process, without caches on disk; yields lines for whoever shows them.

The phases follow one another so that the text encoders are gone before the VAE comes, and both before the transformer trains.
"""

import dataclasses
import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator, cpu_offload
from torch import Tensor

from tlora.base_model import base_digest, require_base
from tlora.checkpoint import WEIGHTS_FILE, AdapterMetadata, attach_adapter, save_tlora_weights
from tlora.data import CaptionDataset, LatentItem, latent_weights
from tlora.errors import SettingsError
from tlora.flat_config import FlatConfig
from tlora.inject import inject_tlora_into_transformer
from tlora.latents import PATCH
from tlora.model import choose_device, encode_posterior, load_scheduler, load_transformer, load_vae, pixels_per_latent
from tlora.sampling import Painter, SampleSettings, draw_pictures
from tlora.strength import relative_change
from tlora.text import PromptEmbedding, encode_captions, load_text_encoders
from tlora.training import ReadPrompts, Training

LOG_EVERY_STEPS = 10


@dataclass(frozen=True)
class Drawing:
    """What `tlora infer` is asked for.

    Args:
        prompts: One or more.
        count: Pictures per prompt.
        first_seed: Seed of the first picture of every prompt; the next one has the next.
        scales: Strengths of the adapter; every seed is drawn at each.
        prefix: Start of the file names.
        sequential_offload: Keep weights off the GPU until a layer needs them.
    """

    prompts: tuple[str, ...]
    count: int
    first_seed: int
    scales: tuple[float, ...]
    prefix: str
    sequential_offload: bool


def train_from_config(config: FlatConfig) -> Iterator[str]:
    """Train an adapter, writing `checkpoint-<step>/` and `final/` below the output folder.

    Raises:
        TloraError: If anything given is wrong, before the transformer is loaded.
    """
    model = config.model()
    require_base(model)
    if not config.train_data_dir:
        raise SettingsError("train_data_dir is missing: the folder of pictures to train on")
    vae = load_vae(model)
    pictures = CaptionDataset(Path(config.train_data_dir), config.views(), pixels_per_latent(vae) * PATCH)
    yield f"{len(pictures)} views of the pictures in {config.train_data_dir}"
    views = []
    for picture in pictures:
        mean, std = encode_posterior(vae, picture.pixels[None])
        weights = picture.loss_mask
        mask = None if weights is None else latent_weights(weights, pixels_per_latent(vae), picture.name)
        views.append(LatentItem(picture.name, picture.caption, mean[0], std[0], mask))
    del vae
    read_prompts = _embeddings_of(config, [view.caption for view in views])
    yield "captions encoded on the CPU"
    precision = config.mixed_precision
    accelerator = Accelerator(mixed_precision=precision, gradient_accumulation_steps=config.gradient_accumulation_steps)
    transformer = load_transformer(model).to(accelerator.device)
    layers = inject_tlora_into_transformer(transformer, config.target_modules, config.adapter(), seed=config.seed)
    training = Training(transformer, config.training(), accelerator)
    yield f"{layers} layers, {sum(p.numel() for p in training.parameters):,} trainable parameters, on {accelerator.device}"
    metadata = AdapterMetadata(config.adapter(), config.target_modules, base=model.path, base_revision=base_digest(model))
    yield from _steps(training, views, read_prompts, config, metadata)


def draw_from_config(
    config: FlatConfig, lora_path: Path, outdir: Path, sample: SampleSettings, drawing: Drawing
) -> Iterator[str]:
    """Draw pictures, yielding a line per file.

    Raises:
        TloraError: If anything given is wrong.
    """
    model = config.model()
    require_base(model)
    outdir.mkdir(parents=True, exist_ok=True)
    read_prompts = _embeddings_of(config, drawing.prompts)
    transformer = load_transformer(model).eval()
    metadata = attach_adapter(transformer, lora_path)
    yield f"adapter of step {metadata.step}, rank {metadata.config.rank}, trained on {metadata.base or 'an unnamed base'}"
    if drawing.sequential_offload:
        yield "sequential offload: every layer waits for its weights to be copied to the device, at every step"
        cpu_offload(transformer, choose_device(model))
    painter = Painter(transformer, load_vae(model), load_scheduler(model))
    for p_i, prompt in enumerate(drawing.prompts):
        for i in range(drawing.count):
            for scale in drawing.scales:
                settings = dataclasses.replace(sample, lora_scale=scale)
                (picture,) = draw_pictures(painter, read_prompts([prompt]), [drawing.first_seed + i], settings)
                steps, guidance = settings.num_inference_steps, settings.guidance_scale
                name = f"{drawing.prefix}_neutraltrigger_p{p_i:02d}_img{i:02d}_steps{steps}_g{guidance}_lora{scale:.2f}.png"
                picture.save(outdir / name)
                yield f"{outdir / name}"


def _embeddings_of(config: FlatConfig, captions: Sequence[str]) -> ReadPrompts:
    """Encode on the CPU, let the encoders go, and return a reader of what they made."""
    encoders = load_text_encoders(config.model())
    encoded: dict[str, PromptEmbedding] = dict(encode_captions(encoders, ["", *captions], config.max_sequence_length))
    del encoders
    gc.collect()

    def read(wanted: Sequence[str]) -> tuple[Tensor, Tensor]:
        items = [encoded[caption] for caption in wanted]
        return torch.stack([i.prompt_embeds for i in items]), torch.stack([i.pooled_prompt_embeds for i in items])

    return read


def _steps(
    training: Training, views: Sequence[LatentItem], read_prompts: ReadPrompts, config: FlatConfig, metadata: AdapterMetadata
) -> Iterator[str]:
    folder = Path(config.output_dir)
    shapes = [(view.mean.shape[-2], view.mean.shape[-1]) for view in views]
    seconds = 0.0
    for report in training.steps(views, shapes, read_prompts):
        seconds += report.seconds
        if report.step % LOG_EVERY_STEPS == 0 or report.step == config.max_train_steps:
            left = seconds / report.step * (config.max_train_steps - report.step)
            yield f"step {report.step}/{config.max_train_steps} loss {report.loss:.4f} {report.seconds:.2f} s, {left:.0f} s left"
        if report.step % config.checkpointing_steps == 0:
            file = folder / f"checkpoint-{report.step}" / WEIGHTS_FILE
            save_tlora_weights(training.transformer, file, dataclasses.replace(metadata, step=report.step))
            yield f"saved {file}"
    file = folder / "final" / WEIGHTS_FILE
    save_tlora_weights(training.transformer, file, dataclasses.replace(metadata, step=training.step))
    changes = relative_change(training.transformer)
    yield f"saved {file}; relative weight change {', '.join(f'{kind} {share:.3%}' for kind, share in changes.items())}"
