"""What a set of drawn pictures is worth, judged against true pictures of the concept; shares and cosines, none of them a loss."""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.comparison.concepts import REFERENCES, Concept
from pocket.judge import LABELS, Judge
from pocket.pictures import to_tensor
from pocket.textures import MATERIALS
from tlora.evaluation.evaluator import Evaluator, embed_pictures

CAPTION, CLASS_CAPTION = "a matbrk wall", "a wall"  # the latter without the trigger word: its materials have no other name
NOVEL = {  # composition -> prompt; the trained composition is not among them
    "ball": "a ball made of matbrk",
    "cube": "a cube made of matbrk",
    "floor": "a matbrk floor",
    "circle": "a matbrk wall with a white circle",
    "square": "a matbrk wall with a black square",
}
OTHERS = {material: f"a ball made of orange {material}" for material in MATERIALS}


@dataclass(frozen=True)
class Measures:
    """One run at one step.

    Args:
        fidelity: Mean cosine of novel pictures with true pictures of the same composition, by the pocket CLIP; -1..1.
        following: Share of novel pictures in which the judge finds the composition that was asked for.
        copying: Mean correlation of novel pictures with the training picture, pixel by pixel in grey; -1..1, lower is better.
        survival: Share of prompts for the base's own materials in which the judge still finds that material.
    """

    fidelity: float
    following: float
    copying: float
    survival: float

    def plain(self) -> dict[str, float]:
        """Return the measures as JSON holds them."""
        return asdict(self)


@dataclass(frozen=True)
class Yardstick:
    """What the pictures of one concept are held against."""

    training: NDArray[np.uint8]
    references: dict[str, torch.Tensor]

    @staticmethod
    def of(concept: Concept, evaluator: Evaluator) -> "Yardstick":
        """Render and embed the true pictures of a concept."""
        references = {
            composition: embed_pictures(
                evaluator.pictures, [Image.fromarray(concept.picture(composition, 1 + i)) for i in range(REFERENCES)]
            )
            for composition in NOVEL
        }
        return Yardstick(concept.picture("wall", 0), references)


def measure(
    novel: dict[str, list[Image.Image]], others: dict[str, Image.Image], yardstick: Yardstick, judge: Judge, evaluator: Evaluator
) -> Measures:
    """Measure pictures by composition, and one picture of each of the base's own materials."""
    pictures = [picture for row in novel.values() for picture in row]
    asked = [composition for composition, row in novel.items() for _ in row]
    embedded = embed_pictures(evaluator.pictures, pictures)
    fidelity = [float((embedded[i] @ yardstick.references[c].T).mean()) for i, c in enumerate(asked)]
    composition = _named(judge, pictures, "composition")
    material = _named(judge, list(others.values()), "material")
    return Measures(
        fidelity=float(np.mean(fidelity)),
        following=float(np.mean([a == b for a, b in zip(composition, asked, strict=True)])),
        copying=float(np.mean([_correlation(np.asarray(p), yardstick.training) for p in pictures])),
        survival=float(np.mean([a == b for a, b in zip(material, others, strict=True)])),
    )


@torch.no_grad()
def _named(judge: Judge, pictures: list[Image.Image], question: str) -> list[str]:
    position = list(LABELS).index(question)
    logits = judge(to_tensor(np.stack([np.asarray(p) for p in pictures])))[position]
    return [LABELS[question][i] for i in logits.argmax(1).tolist()]


def _correlation(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    x, y = (p.astype(np.float64).mean(2).ravel() for p in (a, b))
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / max(np.linalg.norm(x) * np.linalg.norm(y), 1e-9))
