"""Draw pictures from one flat configuration and an adapter, in one process."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from accelerate import cpu_offload

from tlora.base_model import require_base
from tlora.checkpoint import attach_adapter
from tlora.flat_config import FlatConfig
from tlora.model import choose_device, load_scheduler, load_transformer, load_vae
from tlora.sampling import Painter, SampleSettings, draw_pictures
from tlora.text import embed_captions


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
    read_prompts = embed_captions(model, drawing.prompts, config.max_sequence_length)
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
