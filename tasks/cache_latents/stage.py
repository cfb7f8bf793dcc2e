"""Stage: encode every view of every picture with the VAE, as mean and standard deviation, so that each epoch samples afresh.

Training and held-out pictures go to two outputs: a change to the latter trains nothing again. Held-out ones are never cropped.
Encoded views are kept by content in `.state/cache`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from torch import Tensor

from tasks.running.cli import named_section
from tasks.running.state_folder import state_folder
from tlora.data import encode_view, view_key
from tlora.flux.cached import assemble, item_file, write_item
from tlora.flux.files import base_revision, require_base
from tlora.flux.latents import PATCH
from tlora.flux.model import Vae, choose_device, load_vae, pixels_per_latent
from tlora.flux.spec import ModelSpec
from tlora.pictures.decode import decode_picture
from tlora.pictures.loss_mask import read_mask
from tlora.pictures.manifest import Manifest, PictureItem, read_manifest
from tlora.pictures.views import View, ViewSettings, require_resolution, take_view, views_of, without_crops
from tlora.runtime.device_lock import hold_device
from tlora.runtime.progress import Progress


@dataclass(frozen=True)
class _Job:
    item: PictureItem
    view: View
    key: str


def cache_latents(
    settings: ViewSettings, model: ModelSpec, *, manifest: Path, held_out: Path, data: Path, train: Path, evaluation: Path
) -> None:
    """Encode the views of all pictures.

    Args:
        settings: Section `cache_latents`.
        model: Section `model`.
        manifest: Training pictures and captions.
        held_out: Held-out pictures and captions.
        data: Folder of the pictures.
        train: Output folder, latents for training.
        evaluation: Output folder, latents of the held-out pictures.
    """
    require_base(model)
    with named_section("cache_latents"):
        require_resolution(settings, model)
    encoder = base_revision(model, "vae")
    device = str(choose_device(model))
    with hold_device(device, "cache_latents"):
        vae = load_vae(model)
        multiple = pixels_per_latent(vae) * PATCH
        store = state_folder("cache", "latents")
        for source, folder, views in ((manifest, train, settings), (held_out, evaluation, without_crops(settings))):
            pictures = read_manifest(source)
            jobs = list(_jobs(pictures, views, multiple, encoder, data))
            missing = [job for job in jobs if not (store / item_file(job.key)).exists()]
            with Progress("cache_latents", max(1, len(missing))) as progress:
                for key, tensors, picture in _encode(vae, data, missing):
                    write_item(store / item_file(key), tensors)
                    progress.advance(picture)
            print(f"cache_latents: {len(jobs)} views for {folder}, {len(missing)} encoded now", flush=True)
            factor = pixels_per_latent(vae)
            assemble(folder, store, _entries(jobs, factor), {"data_digest": pictures.digest, "pixels_per_latent": factor})


def _jobs(pictures: Manifest, settings: ViewSettings, multiple: int, encoder: str, data: Path) -> Iterator[_Job]:
    for item in pictures.items:
        for view in _visible(item, views_of((item.width, item.height), settings, multiple, item.sha256), data):
            yield _Job(item, view, view_key(encoder, item.sha256, view, item.mask_sha256))


def _visible(item: PictureItem, views: Sequence[View], data: Path) -> list[View]:
    """Leave out crops in which a loss mask is black all over: nothing would be learnt of them."""
    if not item.mask_sha256 or all(view.crop is None for view in views):
        return list(views)
    mask = read_mask(data / item.picture, (item.width, item.height))
    return [view for view in views if view.crop is None or mask is None or take_view(mask, view).getbbox() is not None]


def _encode(vae: Vae, data: Path, jobs: Sequence[_Job]) -> Iterator[tuple[str, dict[str, Tensor], str]]:
    """Yield key, tensors and picture of each view; only one picture is in memory, and it is decoded once for all its views."""
    for name, views in groupby(jobs, key=lambda job: job.item.picture):
        picture = decode_picture(data / name)
        for job in views:
            mask = read_mask(data / name, picture.size) if job.item.mask_sha256 else None
            yield job.key, encode_view(vae, picture, mask, job.view, name), name


def _entries(jobs: Sequence[_Job], factor: int) -> list[dict[str, Any]]:
    return [
        {
            "file": item_file(job.key),
            "picture": job.item.picture,
            "caption": job.item.caption,
            "flipped": job.view.flipped,
            "height": job.view.height // factor,
            "width": job.view.width // factor,
            **({"crop": list(job.view.crop)} if job.view.crop else {}),
        }
        for job in jobs
    ]
