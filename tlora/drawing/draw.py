"""Draw pictures with adapters in one process: text encoders first, then the transformer, picture by picture, whole files only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tlora.drawing.picture_record import AdapterRecord, PictureRecord, save_picture
from tlora.drawing.setup import DrawingSetup, furthest_apart, merged_where_wanted, open_painter
from tlora.errors import SettingsError
from tlora.evaluation.grid import labelled_grid
from tlora.evaluation.texture import seam_ratio
from tlora.flux.files import base_revision, is_same_base, read_family, require_base
from tlora.flux.model import choose_device
from tlora.flux.spec import ModelSpec
from tlora.metadata.adapter import adapter_digest, find_weights, read_metadata
from tlora.pictures.decode import decode_picture
from tlora.runtime.atomic_file import write_png
from tlora.runtime.disk import require_writable
from tlora.runtime.progress import Progress
from tlora.sampling import SampleSettings, draw_pictures, draws_twice
from tlora.text import embed_captions

Say = Callable[[str], None]
ReadPrompts = Callable[[Sequence[str]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Picture:
    """One picture to draw: what it shows, from which noise, and the beginning of its file's name."""

    prompt: str
    seed: int
    name: str


def draw_to_folder(
    setup: DrawingSetup, pictures: Sequence[Picture], samples: Sequence[SampleSettings], outdir: Path, batch: int, say: Say
) -> list[list[Path]]:
    """Draw every picture with every sample's settings; return their files, a row for each picture.

    Args:
        setup: What is drawn with.
        pictures: What is drawn.
        samples: How; several for comparisons at the same seeds.
        outdir: Where the files go.
        batch: Pictures at once.
        say: Where lines for people go.

    Raises:
        TloraError: If anything given is wrong, before a weight is loaded where it can be known.
    """
    files = [find_weights(path) for path in setup.adapters]
    require_base(setup.base)
    require_writable(outdir)
    for file in files:
        require_family(file, setup.base)
    records = [AdapterRecord(str(f), adapter_digest(f), s) for f, s in zip(files, setup.strengths, strict=True)]
    described = Described(setup, tuple(records), base_revision(setup.base))
    for file in files:
        _say_adapter(file, described, say)
    read, empty = read_prompts(setup, [picture.prompt for picture in pictures])
    drawn: list[list[Path]] = [[] for _ in pictures]
    steps = sum(sample.num_inference_steps for sample in samples) * -(-len(pictures) // batch)
    steps += 0 if setup.merge == "no" else 2 * samples[-1].num_inference_steps
    with open_painter(setup, empty, say) as painter, Progress("infer", steps) as progress:

        def draw(group: Sequence[Picture], sample: SampleSettings) -> list[Image.Image]:
            embeddings, seeds = read([picture.prompt for picture in group]), [picture.seed for picture in group]
            return draw_pictures(painter, embeddings, seeds, sample, lambda step: progress.advance())

        with merged_where_wanted(setup, painter, lambda: draw(pictures[:1], samples[-1]), say):
            for first in range(0, len(pictures), batch):
                group = pictures[first : first + batch]
                for sample in samples:
                    for place, image in enumerate(draw(group, sample)):
                        file = outdir / (group[place].name + _settings_name(sample, setup.strengths) + ".png")
                        save_picture(file, image, described.record(group, place, sample))
                        drawn[first + place].append(file)
                        say(f"{file}{_tile_preview(file, image) if sample.tileable else ''}")
    return drawn


def redraw(record: PictureRecord, setup: DrawingSetup, file: Path, say: Say) -> None:
    """Draw a picture again from what it says of itself.

    Raises:
        SettingsError: If the base or an adapter is not the one that it was drawn with.
    """
    require_base(setup.base)
    require_writable(file.parent)
    if not is_same_base(setup.base.path, base_revision(setup.base), record.base, record.base_digest):
        raise SettingsError(f"{setup.base.path}: not the base model that the picture was drawn with, or another revision of it")
    for path, adapter in zip(setup.adapters, record.adapters, strict=True):
        if adapter_digest(find_weights(path)) != adapter.digest:
            raise SettingsError(f"{path}: not the adapter that the picture was drawn with (digest {adapter.digest[:12]})")
    torch.set_num_threads(record.threads)
    here = (choose_device(setup.base).type, torch.__version__)
    if here != (record.device, record.torch):
        say(f"warning: drawn on {record.device} by torch {record.torch}, here {here[0]} and {here[1]}: pixels may differ")
    pictures = [Picture(p, s, "") for p, s in zip(record.prompts, record.seeds, strict=True)]
    read, empty = read_prompts(setup, record.prompts)
    steps = record.sample.num_inference_steps
    with open_painter(setup, empty, say) as painter, Progress("infer", steps if setup.merge == "no" else 3 * steps) as progress:

        def draw() -> list[Image.Image]:
            embeddings = read(record.prompts)
            return draw_pictures(painter, embeddings, record.seeds, record.sample, lambda step: progress.advance())

        with merged_where_wanted(setup, painter, draw, say):
            images = draw()
    described = Described(setup, record.adapters, record.base_digest)
    save_picture(file, images[record.place], described.record(pictures, record.place, record.sample))


def contact_sheet(file: Path, rows: Sequence[str], columns: Sequence[str], drawn: Sequence[Sequence[Path]]) -> None:
    """Lay drawn files out side by side, a row for each picture."""
    write_png(file, labelled_grid(rows, columns, [[decode_picture(path) for path in row] for row in drawn]))


def difference(one: Path, other: Path) -> str:
    """Return in words whether two pictures are equal."""
    a, b = (decode_picture(path) for path in (one, other))
    if a.size != b.size:
        return f"another size than {other}"
    furthest = furthest_apart(a, b)
    return f"differs from {other} by up to {furthest} of 255" if furthest else f"bit-equal to {other}"


def read_prompts(setup: DrawingSetup, prompts: Sequence[str]) -> tuple[ReadPrompts, tuple[Tensor, Tensor] | None]:
    """Encode prompts, and beside them the empty one for a base that draws twice."""
    partner = [""] if draws_twice(setup.base) else []
    read = embed_captions(setup.base, [*prompts, *partner], setup.max_sequence_length)
    return read, read(partner) if partner else None


@dataclass(frozen=True)
class Described:
    """What all pictures of a run have in common: setup, adapters, and what identifies the base's weights."""

    setup: DrawingSetup
    adapters: tuple[AdapterRecord, ...]
    base_digest: str

    def record(self, group: Sequence[Picture], place: int, sample: SampleSettings) -> PictureRecord:
        """Return what a picture says of itself, of those that are drawn at once with it."""
        return PictureRecord(
            prompt=group[place].prompt,
            seed=group[place].seed,
            base=self.setup.base.path,
            base_digest=self.base_digest,
            dtype=self.setup.base.dtype,
            adapters=self.adapters,
            sample=sample,
            max_sequence_length=self.setup.max_sequence_length,
            prompts=tuple(picture.prompt for picture in group),
            seeds=tuple(picture.seed for picture in group),
            place=place,
            merged=self.setup.merge != "no",
            device=choose_device(self.setup.base).type,
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            quantisation=self.setup.base.quantisation,
        )


def require_family(file: Path, base: ModelSpec) -> None:
    """Refuse an adapter of another family, whose layers are not there, before anything is loaded."""
    trained_on, here = read_metadata(file).family, read_family(base, fetch=True).name
    if trained_on != here:
        raise SettingsError(f"{file}: trained on a base of {trained_on}, and {base.path} is of {here}")


def _say_adapter(file: Path, described: Described, say: Say) -> None:
    metadata = read_metadata(file)
    held = "" if metadata.base_quantisation == "none" else f" held as {metadata.base_quantisation}"
    say(f"{file}: step {metadata.step}, rank {metadata.config.rank}, trained on {metadata.base or 'an unnamed base'}{held}")
    here = described.setup.base.path
    recorded = metadata.base_revision
    if recorded and not is_same_base(metadata.base, recorded, here, described.base_digest):
        say(f"warning: {file} was trained on another base than {here}, or another revision of it")


def _settings_name(sample: SampleSettings, strengths: Sequence[float]) -> str:
    scales = "+".join(f"{sample.lora_scale * strength:.2f}" for strength in strengths)
    return f"_steps{sample.num_inference_steps}_g{sample.guidance_scale}_lora{scales}"


def _tile_preview(file: Path, picture: Image.Image) -> str:
    """Show a tile repeated; return in words where, and how visible its seams are."""
    preview = file.with_name(f"{file.stem}_tiled.png")
    write_png(preview, tiled(picture))
    seam = seam_ratio(np.asarray(picture.convert("L"), np.float64) / 255)
    return f": seam ratio {seam:.2f} (1: like any other line of pixels), repeated 3 x 3 in {preview.name}"


def tiled(picture: Image.Image, times: int = 3) -> Image.Image:
    """Return a picture repeated `times` x `times`: seams show at once."""
    sheet = Image.new(picture.mode, (picture.width * times, picture.height * times))
    for row in range(times):
        for column in range(times):
            sheet.paste(picture, (column * picture.width, row * picture.height))
    return sheet
