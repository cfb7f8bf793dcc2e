import json
from pathlib import Path

import pytest

from tlora.errors import PictureError
from tlora.metadata.concept import HeldOutShare
from tlora.pictures.colour import Refused
from tlora.pictures.manifest import PictureItem, build_manifest, manifest_to_json, read_manifest, split_items

HALF = HeldOutShare(fraction=0.5)


def _item(name: str, content: str = "") -> PictureItem:
    return PictureItem(name, content or f"digest of {name}", 64, 48, f"a photo of {name}")


def test_the_digest_depends_on_every_field_and_not_on_the_order() -> None:
    items = [_item("a.png"), _item("b.png")]
    digest = build_manifest(items).digest
    assert build_manifest(items[::-1]).digest == digest
    assert build_manifest([items[0], PictureItem("b.png", items[1].sha256, 64, 48, "another caption")]).digest != digest


def test_a_manifest_reads_back_and_refuses_what_was_edited(tmp_path: Path) -> None:
    manifest = build_manifest([_item("ü.png"), _item("b.png")])
    file = tmp_path / "train.json"
    file.write_text(json.dumps(manifest_to_json(manifest)))
    assert read_manifest(file) == manifest
    file.write_text(file.read_text().replace("a photo of b.png", "a photo of a cat"))
    with pytest.raises(PictureError, match=r"edited by hand$"):
        read_manifest(file)
    file.write_text("{}")
    with pytest.raises(PictureError, match="not a readable manifest"):
        read_manifest(file)


def test_held_out_names_are_split_off() -> None:
    train, held_out = split_items([_item("a.png"), _item("b.png"), _item("c.png")], ("b.png",))
    assert [i.picture for i in train] == ["a.png", "c.png"]
    assert [i.picture for i in held_out] == ["b.png"]


@pytest.mark.parametrize(("count", "held"), [(2, 1), (3, 1), (9, 2), (10, 2), (100, 20)])
def test_a_fifth_is_held_out_and_at_least_one(count: int, held: int) -> None:
    train, held_out = split_items([_item(f"{n}.png") for n in range(count)], HeldOutShare())
    assert (len(train), len(held_out)) == (count - held, held)


def test_adding_or_renaming_a_picture_moves_at_most_one_other() -> None:
    items = [_item(f"{n}.png") for n in range(40)]
    before = {i.picture for i in split_items(items, HeldOutShare())[1]}
    for n in range(20):
        after = {i.picture for i in split_items([*items, _item(f"new {n}.png")], HeldOutShare())[1]}
        assert len(before - after) <= 1
    renamed = [PictureItem(f"renamed {i.picture}", i.sha256, 64, 48, i.caption) for i in items]
    assert {i.picture.removeprefix("renamed ") for i in split_items(renamed, HeldOutShare())[1]} == before


def test_copies_of_one_picture_stay_on_one_side() -> None:
    items = [_item(f"{n}.png", content=f"content {n // 2}") for n in range(12)]
    held_out = {i.sha256 for i in split_items(items, HALF)[1]}
    assert not held_out & {i.sha256 for i in split_items(items, HALF)[0]}


def test_another_seed_holds_out_others() -> None:
    items = [_item(f"{n}.png") for n in range(40)]
    chosen = [tuple(i.picture for i in split_items(items, HeldOutShare(seed=seed))[1]) for seed in (0, 1)]
    assert chosen[0] != chosen[1]


@pytest.mark.parametrize(
    ("count", "held_out", "reason"),
    [
        (1, HALF, "1 readable picture, and 2 are needed"),
        (2, ("0.pgn",), "'0.pgn' is to be held out, but is no readable picture, did you mean '0.png'"),
        (2, ("0.png", "1.png"), "none is left to train on"),
    ],
)
def test_a_split_that_cannot_be_made_is_refused(count: int, held_out: tuple[str, ...] | HeldOutShare, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        split_items([_item(f"{n}.png") for n in range(count)], held_out)
