"""Draw and encode prior pictures: each a function of base, prompt, seed and size, so those that are kept are not drawn again."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tasks.running.state_folder import state_folder
from tlora.data import to_pixels
from tlora.evaluation.grid import labelled_grid
from tlora.flux.cached import INDEX, LatentCache, PromptCache, assemble, content_key, item_file, write_item
from tlora.flux.files import base_revision, require_base
from tlora.flux.model import choose_device, encode_posterior, load_scheduler, load_transformer, load_vae
from tlora.flux.prior_folder import PRIOR_CAPTIONS, PRIOR_GRID, PRIOR_LATENTS, PRIOR_PICTURES
from tlora.flux.spec import ModelSpec
from tlora.runtime.atomic_file import write_png
from tlora.runtime.device_lock import hold_device
from tlora.runtime.progress import Progress
from tlora.sampling import Painter, SampleSettings, draw_pictures, draws_twice

VERSION = "1"  # changes whenever the same settings would give other pictures
_SHOWN = 4  # pictures of each prompt in the grid


@dataclass(frozen=True)
class _Job:
    """One picture to be drawn: its prompt, seed and size in pixels, and its key."""

    text: str
    seed: int
    size: tuple[int, int]
    key: str


@dataclass(frozen=True)
class PriorDrawer:
    """What draws prior pictures.

    Args:
        model: The base model.
        steps: Denoising steps.
        guidance: As for `SampleSettings`.
        prompts: Cached embeddings of the prompts.
        latents: Cached views of the training pictures, for their sizes.
    """

    model: ModelSpec
    steps: int
    guidance: float
    prompts: Path
    latents: Path

    def fill(self, folder: Path, texts: Sequence[str], seeds: Sequence[int]) -> None:
        """Fill the stage's output folder.

        Args:
            folder: Where; empty or missing.
            texts: Prompts, in turn.
            seeds: One for each picture; every size is drawn with the same ones.
        """
        require_base(self.model)
        factor = int(json.loads((self.latents / INDEX).read_text(encoding="utf-8"))["pixels_per_latent"])
        sizes = sorted({(width * factor, height * factor) for height, width in LatentCache(self.latents).shapes()})
        jobs, store = list(self._jobs(texts, seeds, sizes)), state_folder("cache", "prior")
        missing = [job for job in jobs if not (store / item_file(job.key)).exists()]
        if missing:
            self._draw(missing, store)
        print(f"draw_prior: {len(jobs)} pictures of {len(texts)} prompts, {len(missing)} drawn now", flush=True)
        entries = [self._entry(number, job, factor) for number, job in enumerate(jobs)]
        assemble(folder / PRIOR_LATENTS, store, entries, {"pixels_per_latent": factor})
        self._copy_captions(folder, texts)
        pictures = [Image.open(_picture_file(store, job.key)) for job in jobs]
        for entry, picture in zip(entries, pictures, strict=True):
            write_png(folder / PRIOR_PICTURES / str(entry["picture"]), picture)
        write_png(folder / PRIOR_GRID, _grid(texts, jobs, pictures))

    def _jobs(self, texts: Sequence[str], seeds: Sequence[int], sizes: Sequence[tuple[int, int]]) -> Iterator[_Job]:
        """Yield what is to be drawn, under keys of all that a picture is a function of."""
        placed = dataclasses.replace(self.model, path="", device=choose_device(self.model).type)
        base = json.dumps([dataclasses.asdict(placed), base_revision(self.model), self.steps, self.guidance, VERSION])
        embedded = dict(zip(texts, self._digests(texts), strict=True))
        for size in sizes:
            for number, seed in enumerate(seeds):
                text = texts[number % len(texts)]
                yield _Job(text, seed, size, content_key(base, embedded[text], str(seed), str(size)))

    def _digests(self, texts: Sequence[str]) -> list[str]:
        """Return the digest of each prompt's embeddings, and of the empty one's where it takes part."""
        cache = PromptCache(self.prompts)
        partner = [""] if draws_twice(self.model) else []
        parts = [[part for words in ([text], partner) if words for part in cache.read(words)] for text in texts]
        return [
            hashlib.sha256(b"".join(p.contiguous().view(torch.uint8).numpy().tobytes() for p in row)).hexdigest() for row in parts
        ]

    def _draw(self, jobs: Sequence[_Job], store: Path) -> None:
        """Draw and encode one after another: what a picture is does not depend on what else is missing."""
        cache = PromptCache(self.prompts)
        with hold_device(str(choose_device(self.model)), "draw_prior"), Progress("draw_prior", len(jobs)) as progress:
            empty = cache.read([""]) if draws_twice(self.model) else None
            vae = load_vae(self.model)
            painter = Painter(load_transformer(self.model).eval(), vae, load_scheduler(self.model), empty_prompt=empty)
            for job in jobs:
                sample = SampleSettings(*job.size, num_inference_steps=self.steps, guidance_scale=self.guidance)
                (picture,) = draw_pictures(painter, cache.read([job.text]), [job.seed], sample)
                mean, std = encode_posterior(vae, to_pixels(picture)[None])
                write_png(_picture_file(store, job.key), picture)
                write_item(store / item_file(job.key), {"mean": mean[0], "std": std[0]})  # last: it says that both are there
                progress.advance(job.text[:40])

    def _entry(self, number: int, job: _Job, factor: int) -> dict[str, Any]:
        return {
            "file": item_file(job.key),
            "picture": f"{number:04d}-seed-{job.seed}.png",
            "caption": job.text,
            "flipped": False,
            "height": job.size[1] // factor,
            "width": job.size[0] // factor,
        }

    def _copy_captions(self, folder: Path, texts: Sequence[str]) -> None:
        """Take the prompts' embeddings along, so that training depends on no other evaluation prompt."""
        cache = PromptCache(self.prompts)
        entries = [{"caption": text, "file": cache.files[text]} for text in sorted(texts)]
        assemble(folder / PRIOR_CAPTIONS, self.prompts, entries, {})


def _picture_file(store: Path, key: str) -> Path:
    return (store / item_file(key)).with_suffix(".png")


def _grid(texts: Sequence[str], jobs: Sequence[_Job], pictures: Sequence[Image.Image]) -> Image.Image:
    """Lay the first pictures of each prompt out, those of the first size."""
    rows: dict[str, list[Image.Image | None]] = {text: [] for text in texts}
    for job, picture in zip(jobs, pictures, strict=True):
        if job.size == jobs[0].size and len(rows[job.text]) < _SHOWN:
            rows[job.text].append(picture)
    rows = {text: row for text, row in rows.items() if row}  # of more prompts than pictures, the last have none
    columns = max(len(row) for row in rows.values())
    padded = [row + [None] * (columns - len(row)) for row in rows.values()]
    return labelled_grid(list(rows), [f"{i + 1}" for i in range(columns)], padded)
