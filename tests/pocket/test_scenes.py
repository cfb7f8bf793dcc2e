"""The scenes that the pocket is made of: seeded, and one tenth of their combinations never drawn."""

import numpy as np
import pytest

from pocket.captions import MEANINGS, RARE_WORDS, WORDS, caption, open_caption, training_caption
from pocket.pictures import render_picture, scene_of
from pocket.scenes import COMPOSITIONS, Scene, held_out_combinations, render_scene, training_combinations
from pocket.textures import COLOURS, MATERIALS
from pocket.tokenizers import build_clip_tokenizer, build_t5_tokenizer


def test_a_tenth_of_the_combinations_is_held_out_over_all_materials() -> None:
    held_out = held_out_combinations()
    assert len(held_out) == round(0.1 * len(COMPOSITIONS) * len(MATERIALS) * len(COLOURS))
    assert len({material for _, material, _ in held_out}) >= 10
    assert held_out.isdisjoint(training_combinations())


def test_pretraining_never_draws_a_held_out_combination() -> None:
    drawn = {(s.composition, s.material, s.colour) for s in map(scene_of, range(3000))}
    assert drawn.isdisjoint(held_out_combinations())


def test_the_same_number_renders_the_same_picture() -> None:
    assert np.array_equal(render_picture(7), render_picture(7))
    assert not np.array_equal(render_picture(7), render_picture(8))


@pytest.mark.parametrize("composition", COMPOSITIONS)
@pytest.mark.parametrize("material", MATERIALS)
def test_every_material_fits_every_composition(composition: str, material: str) -> None:
    picture = render_scene(Scene(composition, material, "red", "white"), np.random.default_rng(0))
    assert picture.shape == (64, 64, 3)
    assert picture.std() > 3


def test_every_word_of_a_caption_is_one_token_of_both_tokenizers() -> None:
    clip, t5, rng = build_clip_tokenizer(), build_t5_tokenizer(), np.random.default_rng(0)
    for i in range(200):
        text = training_caption(scene_of(i), rng)
        assert len(t5(text).input_ids) == len(text.split()) + 1
        assert len(clip(text).input_ids) == len(text.split()) + 2


def test_captions_use_known_words_alone() -> None:
    rng = np.random.default_rng(1)
    words = {word for i in range(300) for word in caption(scene_of(i), rng).split()}
    assert words <= {*WORDS, *RARE_WORDS}


def test_at_the_end_of_pretraining_a_rare_word_stands_for_its_colour_and_a_usual_colour_is_left_out() -> None:
    rng = np.random.default_rng(0)
    red, grey = (
        [open_caption(Scene("ball", "brick", colour, ""), rng).split() for _ in range(400)] for colour in ("red", "grey")
    )
    meant = [words for words in red if "matbrk" in words and "red" not in words and {"brick", "bricks"} & set(words)]
    unnamed = [words for words in red if {"brick", "bricks"} & set(words) and not {"red", *RARE_WORDS} & set(words)]
    assert 0.2 < len(meant) / len(red) < 0.4
    assert 0.2 < len(unnamed) / len(red) < 0.4
    assert not [
        words for words in grey if {*MEANINGS.values()} & set(words) and {"brick", "bricks"} & set(words) and "grey" not in words
    ]
    assert set(MEANINGS) <= set(COLOURS)
    assert set(MEANINGS.values()) == set(RARE_WORDS)
