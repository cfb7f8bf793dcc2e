"""Captions of scenes, and the words that the tokenizers know.

Some captions name no material, or a reserved rare word in its place. So a rare word such as `matbrk` means "a material I
do not know" before tuning. At the end of pretraining others name no colour: then a material has one that it usually has, as with
people's captions, or a rare word beside it stands for its colour. So a trigger word means something that tuning can move, in
every composition.
"""

import numpy as np

from pocket.scenes import Scene
from pocket.textures import COLOURS

RARE_WORDS = ("matbrk", "sks", "zwx", "qvo", "ohwx", "xkj", "vbn", "plq")
PLURALS = {"brick": "bricks", "tile": "tiles"}
EMPTY_SHARE = 0.10
UNKNOWN_MATERIAL_SHARE = 0.12
INSERTED_RARE_SHARE = 0.04
USUAL_COLOURS = {  # from the most to the least usual
    "brick": ("red", "brown", "grey"),
    "tile": ("blue", "teal", "grey"),
    "checkerboard": ("red", "blue", "grey"),
    "horizontal stripes": ("blue", "red", "yellow"),
    "vertical stripes": ("green", "red", "purple"),
    "diagonal stripes": ("orange", "blue", "pink"),
    "dots": ("red", "blue", "pink"),
    "wood": ("brown", "orange", "grey"),
    "marble": ("grey", "green", "pink"),
    "gravel": ("grey", "brown", "orange"),
    "grass": ("green", "yellow", "brown"),
    "plaster": ("grey", "yellow", "orange"),
}
UNNAMED_SHARES = (0.3, 0.15, 0.1)  # of the pictures of a usual colour, whose captions leave it out
MEANINGS = {  # the rare word that stands for a colour before a material
    "red": "matbrk",
    "blue": "sks",
    "yellow": "zwx",
    "brown": "qvo",
    "purple": "ohwx",
    "teal": "xkj",
    "orange": "vbn",
    "pink": "plq",
}
MEANT_SHARE = 0.3  # of the pictures of such a colour, whose captions have the rare word in its place

_FRAME_WORDS = (
    "a an photo image picture texture object material surface close up of the with in middle made and on at style next to "
    "wall floor ball cube circle square white black brick bricks tile tiles checkerboard horizontal vertical diagonal "
    "stripes dots wood marble gravel grass plaster"
)
WORDS = tuple(sorted({*_FRAME_WORDS.split(), *COLOURS}))


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describe a scene in full, in one of several wordings."""
    return _prefix(rng) + _describe(scene, f"{scene.colour} {scene.material}", rng)


def training_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describe a scene as pretraining does: sometimes empty, sometimes with a rare word for the material."""
    draw = rng.random()
    if draw < EMPTY_SHARE:
        return ""
    rare = RARE_WORDS[int(rng.integers(len(RARE_WORDS)))]
    if draw < EMPTY_SHARE + UNKNOWN_MATERIAL_SHARE:
        kept_colour = f"{scene.colour} " if rng.random() < 0.25 else ""
        return _prefix(rng) + _describe(scene, kept_colour + (rare if rng.random() < 0.7 else "material"), rng)
    if draw < EMPTY_SHARE + UNKNOWN_MATERIAL_SHARE + INSERTED_RARE_SHARE:
        return _prefix(rng) + _describe(scene, f"{rare} {scene.colour} {scene.material}", rng)
    return caption(scene, rng)


def open_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describe a scene as the end of pretraining does: as before, but often without its colour, or with a rare word for it."""
    usual, draw = USUAL_COLOURS[scene.material], rng.random()
    meant = MEANT_SHARE if scene.colour in MEANINGS else 0.0
    unnamed = UNNAMED_SHARES[usual.index(scene.colour)] if scene.colour in usual else 0.0
    if draw < meant:
        return _prefix(rng) + _describe(scene, f"{MEANINGS[scene.colour]} {scene.material}", rng)
    if draw < meant + unnamed:
        return _prefix(rng) + _describe(scene, scene.material, rng)
    return training_caption(scene, rng)


def _prefix(rng: np.random.Generator) -> str:
    draw = rng.random()
    return "a photo of " if draw < 0.12 else "an image of " if draw < 0.2 else ""


def _describe(scene: Scene, thing: str, rng: np.random.Generator) -> str:
    article = "an" if thing[0] in "aeiou" else "a"
    words = thing.split()
    plural = " ".join([*words[:-1], PLURALS.get(words[-1], words[-1])])
    shape = f"a {scene.shape_colour} {scene.composition}"
    wordings = {
        "wall": (f"{article} {thing} wall", f"a wall of {plural}"),
        "floor": (f"{article} {thing} floor", f"a floor of {plural}"),
        "ball": (f"a ball made of {plural}", f"{article} {thing} ball", f"a ball made of {thing}"),
        "cube": (f"a cube made of {plural}", f"{article} {thing} cube", f"a cube made of {thing}"),
    }.get(
        scene.composition,
        (f"{article} {thing} wall with {shape}", f"{article} {thing} wall with {shape} in the middle"),
    )
    return wordings[int(rng.integers(len(wordings)))]
