"""The classifier that judges pictures: which composition, material and colour does one show?

It is the measure of the base model and never part of the product's own evaluation.
"""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pocket.loop import Draw, Learner, Recipe, train
from pocket.pictures import VALIDATION_PICTURES, scene_of, to_tensor
from pocket.scenes import COMPOSITIONS, Scene
from pocket.textures import COLOURS, MATERIALS

LABELS = {"composition": list(COMPOSITIONS), "material": list(MATERIALS), "colour": list(COLOURS)}
_CHANNELS = (3, 24, 48, 96, 128)
_BATCH = 64


class Judge(nn.Module):
    """Four convolutions; one linear head for the three questions."""

    def __init__(self) -> None:
        super().__init__()
        pairs = list(pairwise(_CHANNELS))
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, 2 if i < 3 else 1, 1) for i, (a, b) in enumerate(pairs))
        self.norms = nn.ModuleList(nn.GroupNorm(8, b) for _, b in pairs)
        self.head = nn.Linear(_CHANNELS[-1] * 5, sum(len(names) for names in LABELS.values()))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits of composition, material and colour for (batch, 3, 64, 64) in -1..1."""
        x = pictures
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.relu(norm(convolution(x)))
        features = torch.cat([x.mean((2, 3)), F.adaptive_max_pool2d(x, 2).flatten(1)], dim=1)
        composition, material, colour = self.head(features).split([len(names) for names in LABELS.values()], dim=1)
        return composition, material, colour

    def save_pretrained(self, folder: Path) -> None:
        """Write weights as float16 and the labels beside them."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.half().contiguous() for k, v in self.state_dict().items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"labels": LABELS}, indent=2) + "\n")

    @staticmethod
    def from_pretrained(folder: Path) -> "Judge":
        """Load what `save_pretrained` wrote, in float32."""
        judge = Judge()
        judge.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})
        return judge.eval().requires_grad_(False)


def true_labels(scenes: list[Scene]) -> NDArray[np.int64]:
    """Return label numbers, (batch, 3)."""
    return np.array(
        [
            [LABELS["composition"].index(s.composition), LABELS["material"].index(s.material), LABELS["colour"].index(s.colour)]
            for s in scenes
        ]
    )


@torch.no_grad()
def verdicts(judge: Judge, pictures: NDArray[np.uint8], scenes: list[Scene]) -> NDArray[np.bool_]:
    """Return whether the judge names composition, material and colour as asked, (batch, 3)."""
    named = torch.stack([logits.argmax(1) for logits in judge(to_tensor(pictures))], dim=1).numpy()
    return named == true_labels(scenes)


def train_judge(pictures: NDArray[np.uint8], steps: int, folder: Path) -> Judge:
    """Train the judge on rendered pictures, half of them noisy or blurred as drawn pictures are."""
    torch.manual_seed(0)
    judge = Judge()
    labels = torch.tensor(true_labels([scene_of(i) for i in range(len(pictures))]), device=torch.get_default_device())

    def loss_at(step: int, draw: Draw) -> Tensor:
        chosen = np.sort(draw.numpy.integers(VALIDATION_PICTURES, len(pictures), _BATCH))
        batch = to_tensor(pictures[chosen])
        if step % 2:
            batch = batch + torch.randn(batch.shape, generator=draw.torch) * 0.08 * draw.numpy.random()
        if step % 3 == 0:
            batch = F.interpolate(F.avg_pool2d(batch, 2), scale_factor=2, mode="bilinear")
        wanted = labels[chosen]
        return sum((F.cross_entropy(logits, wanted[:, i]) for i, logits in enumerate(judge(batch))), torch.zeros(()))

    train(Learner([judge], Recipe("judge", 4, steps, 3e-3, 1e-3, 0.98)), loss_at, folder)
    return judge.eval().requires_grad_(False)
