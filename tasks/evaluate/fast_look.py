"""A fast look: what every checkpoint draws on the distilled model of the base's own network, in few steps and without guidance.

It shows what an adapter does where many will draw with it. Nothing is measured on these pictures, and none is chosen by them.
"""

import dataclasses
import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.evaluate.drawing import Column, PictureDrawer, Rows
from tasks.evaluate.identity import fingerprint_fields
from tasks.evaluate.kept import Cell, KeptPictures
from tasks.evaluate.team import Team
from tlora.errors import ModelError, SettingsError
from tlora.evaluation.grid import labelled_grid
from tlora.flux.files import base_revision, is_distilled, local_file, read_family, require_base
from tlora.flux.model import load_scheduler, load_transformer, load_vae, outline_transformer
from tlora.flux.spec import ModelSpec
from tlora.metadata.adapter import BASE
from tlora.runtime.atomic_file import write_png
from tlora.sampling import Painter, SampleSettings

STEPS = 4  # for which FLUX.2 [klein] was distilled: its model card
GRID = "distilled.png"
_END = 2**20  # bytes of either end of a file by which text encoders are told apart


@dataclass(frozen=True)
class FastLook:
    """What is drawn with.

    Args:
        model: The distilled model.
        sample: Size and masks.
        batch: Most pictures drawn at once.
    """

    model: ModelSpec
    sample: SampleSettings
    batch: int

    @staticmethod
    def on(model: ModelSpec, sample: SampleSettings, batch: int) -> "FastLook":
        """Return one with the steps that the model was distilled for, and without guidance."""
        return FastLook(model, dataclasses.replace(sample, num_inference_steps=STEPS, guidance_scale=1.0), batch)

    def require(self, base: ModelSpec) -> None:
        """Check that adapters of the base can be drawn with here, before a weight is loaded.

        Raises:
            SettingsError: If the model cannot be had, is of another family or network than the base, has another text encoder,
                or is not distilled.
        """
        try:
            self._require(base)
        except ModelError as error:
            raise SettingsError(f"preview_model: {error}") from error

    def draw(
        self,
        checkpoints: Mapping[str, Path],
        embeddings: tuple[Tensor, Tensor],
        cells: Sequence[Cell],
        team: Team,
        kept: KeptPictures,
    ) -> dict[str, Rows]:
        """Return what the bare model and every checkpoint draw, a picture for each cell.

        Args:
            checkpoints: Their folders.
            embeddings: Of the prompts, by the base's text encoder, which is this model's too.
            cells: A prompt and a seed each, in the order of the prompts.
            team: Who draws.
            kept: Where the evaluation keeps its pictures; these are kept below.

        Raises:
            ModelError: If the model cannot be loaded.
        """
        gc.collect()  # whatever was on the device before makes room
        torch.cuda.empty_cache()
        own = KeptPictures(kept.folder, self._fields(embeddings, team))
        placed = team.placed(self.model)
        painter = Painter(load_transformer(placed).eval(), load_vae(placed), load_scheduler(placed))
        drawer = PictureDrawer(painter, embeddings, self.sample, self.batch, own)
        columns = [Column(name, folder, self.sample.lora_scale) for name, folder in {BASE: None, **checkpoints}.items()]
        batches = [batch for column in columns for batch in drawer.batches(column, cells)]
        team.share(batches, lambda batch: len(drawer.draw(batch)), "evaluate: a fast look")
        rows: dict[str, Rows] = {column.name: [] for column in columns}
        for batch in batches:
            rows[batch.column.name] += [[picture] for picture in drawer.draw(batch)]
        return rows

    def told(self, seed: int) -> dict[str, Any]:
        """Return what evaluate.json says of it."""
        revision = base_revision(self.model)[:12]
        return {"model": self.model.path, "revision": revision, "steps": STEPS, "seed": seed, "decides": False}

    def _fields(self, embeddings: tuple[Tensor, Tensor], team: Team) -> dict[str, Any]:
        return fingerprint_fields({"sample": dataclasses.asdict(self.sample)}, self.model, team.device, embeddings, [])

    def _require(self, base: ModelSpec) -> None:
        require_base(self.model, encodes=False)  # the base has encoded the prompts
        own, wanted = read_family(self.model, fetch=True), read_family(base, fetch=True)
        name = self.model.path
        if own is not wanted:
            raise ModelError(f"{name} is a {own.name}, and the base {base.path} a {wanted.name}: no adapter fits both")
        if not is_distilled(self.model):
            raise ModelError(f"{name}: its files do not say that it is distilled, as those of FLUX.2-klein-4B do")
        if _shapes(self.model) != _shapes(base):
            raise ModelError(f"{name}: its network is of another size than that of the base {base.path}: no adapter fits both")
        for part, _ in own.text_encoders:
            if (files := _ends(self.model, part)) and (others := _ends(base, part)) and files != others:
                raise ModelError(f"{name}/{part}: not that of the base {base.path}, which has encoded the prompts")


def write_fast_look(grids: Path, rows: Mapping[str, Rows], prompts: Sequence[str], model: ModelSpec) -> Path:
    """Write the pictures as a grid, a row for the bare model and each checkpoint; return its file."""
    labels = [model.name if name == BASE else name for name in rows]
    write_png(grids / GRID, labelled_grid(labels, prompts, [[row[0] for row in each] for each in rows.values()]))
    return grids / GRID


def _shapes(spec: ModelSpec) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in outline_transformer(spec).named_parameters()}


def _ends(spec: ModelSpec, part: str) -> list[tuple[int, bytes, bytes]]:
    """Return size, beginning and end of each file of a part's weights, as far as they are on this machine."""
    found = []
    for file in sorted(local_file(spec, f"{part}/config.json").parent.glob("*.safetensors")):
        with file.open("rb") as opened:
            size, first = file.stat().st_size, opened.read(_END)
            opened.seek(max(0, size - _END))
            found.append((size, first, opened.read()))
    return found
