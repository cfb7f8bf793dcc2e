"""Encode the prior pictures of a folder as `cache_latents` and `cache_prompts` encode what is learnt.

What is kept is not encoded again.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tasks.draw_prior.folder import Captioned
from tasks.draw_prior.output import Kept, lay_out, trained_sizes
from tasks.running.state_folder import state_folder
from tlora.data import encode_view, view_key
from tlora.errors import PictureError
from tlora.flux.cached import INDEX, assemble, write_item
from tlora.flux.files import base_revision, require_base
from tlora.flux.model import choose_device, load_vae
from tlora.flux.prior_folder import PRIOR_CAPTIONS, PRIOR_SOURCE
from tlora.flux.spec import ModelSpec
from tlora.pictures.colour import Refused
from tlora.pictures.decode import decode_picture, picture_digest, read_picture
from tlora.pictures.files import mask_path
from tlora.pictures.loss_mask import read_mask
from tlora.pictures.views import View, take_view
from tlora.runtime.atomic_file import write_png
from tlora.runtime.device_lock import hold_device
from tlora.runtime.progress import Progress
from tlora.text import keep_embeddings


@dataclass(frozen=True)
class _Job:
    """One view of one picture: the whole of it, of which the middle is taken, not mirrored."""

    source: Path
    view: View
    kept: Kept


@dataclass(frozen=True)
class FolderEncoder:
    """What encodes prior pictures.

    Args:
        model: The base model.
        prompts: Cached embeddings of prompts, for their length.
        latents: Cached views of the training pictures, for their sizes.
    """

    model: ModelSpec
    prompts: Path
    latents: Path

    def fill(self, output: Path, source: str, pictures: Sequence[Captioned]) -> None:
        """Fill the stage's output folder; every picture is there in each size that is trained on.

        Args:
            output: Where; empty or missing.
            source: The folder that the pictures are from, as the setting names it.
            pictures: Them.

        Raises:
            PictureError: If one cannot be read whole.
        """
        require_base(self.model)
        factor, sizes = trained_sizes(self.latents)
        jobs, store = self._jobs(pictures, sizes), state_folder("cache", "prior")
        missing = [job for job in jobs if not job.kept.latents(store).exists()]
        if missing:
            self._encode(sorted(missing, key=lambda job: job.source), store)
        self._encode_captions(output, sorted({picture.caption for picture in pictures}))
        lay_out(output, store, [job.kept for job in jobs], {"pixels_per_latent": factor, PRIOR_SOURCE: source})
        print(f"draw_prior: {len(pictures)} pictures of {source}, {len(jobs)} views, {len(missing)} encoded now", flush=True)

    def _jobs(self, pictures: Sequence[Captioned], sizes: Sequence[tuple[int, int]]) -> list[_Job]:
        encoder = base_revision(self.model, "vae")
        digests = {path: _digest(path) for picture in pictures for path in (picture.path, mask_path(picture.path)) if path}
        jobs: list[_Job] = []
        for width, height in sizes:
            view = View(width, height, flipped=False)
            for picture in pictures:
                mask = mask_path(picture.path)
                key = view_key(encoder, digests[picture.path], view, digests[mask] if mask else "")
                name = f"{len(jobs):04d}-{picture.path.stem}.png"
                jobs.append(_Job(picture.path, view, Kept(key, picture.caption, (width, height), name)))
        return jobs

    def _encode(self, jobs: Sequence[_Job], store: Path) -> None:
        """Decode each picture once for all its views; only one is in memory."""
        with hold_device(str(choose_device(self.model)), "draw_prior"), Progress("draw_prior", len(jobs)) as progress:
            vae = load_vae(self.model)
            for path, views in groupby(jobs, key=lambda job: job.source):
                picture = decode_picture(path)
                mask = read_mask(path, picture.size)
                for job in views:
                    tensors = encode_view(vae, picture, mask, job.view, str(path))
                    write_png(job.kept.picture(store), take_view(picture, job.view))
                    write_item(job.kept.latents(store), tensors)  # last: it says that both are there
                    progress.advance(path.name)

    def _encode_captions(self, output: Path, captions: Sequence[str]) -> None:
        length = int(json.loads((self.prompts / INDEX).read_text(encoding="utf-8"))["max_sequence_length"])
        store = state_folder("cache", "prompts")
        files, _ = keep_embeddings(self.model, captions, length, store, "draw_prior")
        entries = [{"caption": caption, "file": files[caption]} for caption in captions]
        assemble(output / PRIOR_CAPTIONS, store, entries, {"max_sequence_length": length})


def _digest(file: Path) -> str:
    try:
        return picture_digest(read_picture(file))
    except Refused as refused:
        raise PictureError(f"{file}: {refused}") from refused
