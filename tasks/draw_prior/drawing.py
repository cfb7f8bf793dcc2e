"""Draw and encode prior pictures: each a function of base, prompt, seed and size, so those that are kept are not drawn again."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tasks.draw_prior.output import Kept, lay_out, trained_sizes
from tasks.running.state_folder import state_folder
from tlora.data import to_pixels
from tlora.flux.cached import PromptCache, assemble, content_key, write_item
from tlora.flux.files import base_revision, require_base
from tlora.flux.model import choose_device, encode_posterior, load_scheduler, load_transformer, load_vae
from tlora.flux.prior_folder import PRIOR_CAPTIONS
from tlora.flux.spec import ModelSpec
from tlora.runtime.atomic_file import write_png
from tlora.runtime.device_lock import hold_device
from tlora.runtime.progress import Progress
from tlora.sampling import Painter, SampleSettings, draw_pictures, draws_twice

VERSION = "1"  # changes whenever the same settings would give other pictures


@dataclass(frozen=True)
class _Job:
    """One picture to be drawn: its seed, and what is kept of it."""

    seed: int
    kept: Kept


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
        factor, sizes = trained_sizes(self.latents)
        jobs, store = list(self._jobs(texts, seeds, sizes)), state_folder("cache", "prior")
        missing = [job for job in jobs if not job.kept.latents(store).exists()]
        if missing:
            self._draw(missing, store)
        print(f"draw_prior: {len(jobs)} pictures of {len(texts)} prompts, {len(missing)} drawn now", flush=True)
        self._copy_captions(folder, texts)
        lay_out(folder, store, [job.kept for job in jobs], {"pixels_per_latent": factor})

    def _jobs(self, texts: Sequence[str], seeds: Sequence[int], sizes: Sequence[tuple[int, int]]) -> Iterator[_Job]:
        """Yield what is to be drawn, under keys of all that a picture is a function of."""
        placed = dataclasses.replace(self.model, path="", device=choose_device(self.model).type)
        base = json.dumps([dataclasses.asdict(placed), base_revision(self.model), self.steps, self.guidance, VERSION])
        embedded = dict(zip(texts, self._digests(texts), strict=True))
        counted = itertools.count()
        for size in sizes:
            for number, seed in enumerate(seeds):
                text = texts[number % len(texts)]
                key = content_key(base, embedded[text], str(seed), str(size))
                yield _Job(seed, Kept(key, text, size, f"{next(counted):04d}-seed-{seed}.png"))

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
                sample = SampleSettings(*job.kept.size, num_inference_steps=self.steps, guidance_scale=self.guidance)
                (picture,) = draw_pictures(painter, cache.read([job.kept.caption]), [job.seed], sample)
                mean, std = encode_posterior(vae, to_pixels(picture)[None])
                write_png(job.kept.picture(store), picture)
                write_item(job.kept.latents(store), {"mean": mean[0], "std": std[0]})  # last: it says that both are there
                progress.advance(job.kept.caption[:40])

    def _copy_captions(self, folder: Path, texts: Sequence[str]) -> None:
        """Take the prompts' embeddings along, so that training depends on no other evaluation prompt."""
        cache = PromptCache(self.prompts)
        entries = [{"caption": text, "file": cache.files[text]} for text in sorted(texts)]
        assemble(folder / PRIOR_CAPTIONS, self.prompts, entries, {})
