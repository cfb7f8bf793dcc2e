"""The cache stages on a tiny real base: encode what is new, keep nothing stale, mix nothing up."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file

from tasks.cache_latents.stage import cache_latents
from tasks.cache_prompts.stage import cache_prompts
from tests.tasks.data_folder import texture
from tests.tiny_flux import SCALE
from tlora.data import to_pixels
from tlora.errors import CacheError, PictureError, SettingsError
from tlora.flux.cached import CLASS_INDEX, INDEX, LatentCache, PromptCache
from tlora.flux.model import encode_posterior, load_vae
from tlora.flux.spec import ModelSpec
from tlora.pictures.decode import decode_picture, picture_digest
from tlora.pictures.files import mask_path
from tlora.pictures.manifest import PictureItem, build_manifest, manifest_to_json
from tlora.pictures.tokens import TextSettings
from tlora.pictures.views import View, ViewSettings, take_view
from tlora.runtime.atomic_file import write_json


@pytest.fixture
def model(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """A tiny base, and an empty working folder."""
    monkeypatch.chdir(tmp_path)
    return ModelSpec(str(tiny_base), dtype="float32", device="cpu")


def write_manifest(captions: dict[str, str], file: str = "train.json") -> None:
    """Draw a picture for each name and list them with their captions."""
    items = []
    for number, (name, caption) in enumerate(captions.items()):
        texture(number, (40, 24)).save(name)
        items.append(PictureItem(name, picture_digest(Path(name).read_bytes()), 40, 24, caption, mask_digest(name)))
    write_json(Path(file), manifest_to_json(build_manifest(items)))


def mask_digest(name: str) -> str:
    mask = mask_path(Path(name))
    return picture_digest(mask.read_bytes()) if mask else ""


def encode_prompts(model: ModelSpec, prompts: str = "[a matbrk wall]", extra: str = "") -> None:
    Path("concept.yaml").write_text(f"name: brick\ntrigger: matbrk\nheld_out: [x.png]\nprompts: {prompts}\n{extra}")
    write_manifest({"x.png": "held out"}, "held_out.json")
    cache_prompts(
        TextSettings(16),
        model,
        manifest=Path("train.json"),
        held_out=Path("held_out.json"),
        concept=Path("concept.yaml"),
        captions=Path("captions"),
        evaluation=Path("evaluation"),
    )


def test_adding_a_caption_encodes_one_and_deleting_one_leaves_nothing_stale(
    model: ModelSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest({"a.png": "a wall", "b.png": "a ball"})
    encode_prompts(model)
    capsys.readouterr()
    write_manifest({"a.png": "a wall", "b.png": "a ball", "c.png": "a cube"})
    encode_prompts(model)
    assert "1 encoded now" in capsys.readouterr().out
    write_manifest({"a.png": "a wall"})
    encode_prompts(model)
    assert "0 encoded now" in capsys.readouterr().out
    assert set(PromptCache(Path("captions")).files) == {"", "a wall"}


def test_captions_without_the_trigger_word_are_encoded_beside_the_others_and_change_nothing_of_them(model: ModelSpec) -> None:
    write_manifest({"a.png": "a matbrk wall", "b.png": "a ball"})
    encode_prompts(model)
    before = (Path("captions") / INDEX).read_bytes()
    concept = Path("concept.yaml").read_text() + "class_word: old brick\n"
    encode_prompts(model, extra="class_word: old brick\n")
    assert Path("concept.yaml").read_text() == concept
    assert (Path("captions") / INDEX).read_bytes() == before
    cache = PromptCache(Path("captions"))
    with pytest.raises(CacheError, match="no embedding of 'an old brick wall'"):
        cache.read(["an old brick wall"])
    cache.with_class_captions().read(["an old brick wall"])
    assert cache.class_captions == {"": "", "a ball": "a ball", "a matbrk wall": "an old brick wall"}
    (Path("captions") / CLASS_INDEX).unlink()
    with pytest.raises(CacheError, match="not a readable cache index"):
        cache.with_class_captions()
    assert (
        len(list(Path("captions").glob("*/*.safetensors"))) == 4
    )  # the empty caption, two, and the one without the trigger word


def test_a_changed_evaluation_prompt_leaves_the_captions_bytes_alone(model: ModelSpec) -> None:
    write_manifest({"a.png": "a wall"})
    encode_prompts(model)
    before = {p.name: p.read_bytes() for p in Path("captions").rglob("*.*")}
    encode_prompts(model, prompts="[a matbrk floor]")
    assert {p.name: p.read_bytes() for p in Path("captions").rglob("*.*")} == before
    assert "a matbrk floor" in PromptCache(Path("evaluation")).files


def encode_latents(model: ModelSpec, settings: ViewSettings) -> None:
    write_manifest({"h.png": "held out"}, "held_out.json")
    cache_latents(
        settings,
        model,
        manifest=Path("train.json"),
        held_out=Path("held_out.json"),
        data=Path(),
        train=Path("latents"),
        evaluation=Path("latents_held_out"),
    )


def test_a_flipped_view_has_the_latents_of_the_mirrored_picture(model: ModelSpec) -> None:
    write_manifest({"a.png": "first", "b.png": "second"})
    encode_latents(model, ViewSettings(16, random_flip=True))
    entries = json.loads(Path("latents/index.json").read_text())["items"]
    assert [(e["picture"], e["caption"], e["flipped"]) for e in entries] == [
        ("a.png", "first", False),
        ("a.png", "first", True),
        ("b.png", "second", False),
        ("b.png", "second", True),
    ]
    upright = take_view(decode_picture(Path("a.png")), View(16, 16, False))
    mean, _ = encode_posterior(load_vae(model), to_pixels(ImageOps.mirror(upright))[None])
    plain, flipped = (load_file(Path("latents") / e["file"])["mean"] for e in entries[:2])
    assert torch.equal(flipped, mean[0])
    assert not torch.equal(flipped, plain)


def test_cached_latents_are_the_posterior_of_the_view(model: ModelSpec) -> None:
    write_manifest({"a.png": "first"})
    encode_latents(model, ViewSettings(16))
    (item,) = LatentCache(Path("latents"))
    pixels = to_pixels(take_view(decode_picture(Path("a.png")), View(16, 16, False)))
    mean, std = encode_posterior(load_vae(model), pixels[None])
    assert torch.equal(item.mean, mean[0])
    assert torch.equal(item.std, std[0])


def test_a_loss_mask_is_cropped_shrunk_and_mirrored_with_its_view_and_a_new_one_encodes_its_picture_again(
    model: ModelSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest({"a.png": "first", "b.png": "second"})
    encode_latents(model, ViewSettings(16, random_flip=True))
    assert all(item.loss_mask is None for item in LatentCache(Path("latents")))
    mask = Image.new("L", (40, 24), "black")
    mask.paste("white", (0, 0, 20, 24))
    mask.save("a-masklabel.png")
    write_manifest({"a.png": "first", "b.png": "second"})
    capsys.readouterr()
    encode_latents(model, ViewSettings(16, random_flip=True))
    assert "4 views for latents, 2 encoded now" in capsys.readouterr().out
    plain, flipped, *others = (item.loss_mask for item in LatentCache(Path("latents")))
    assert others == [None, None]
    assert plain is not None
    assert flipped is not None
    assert plain.shape == (8, 8)
    assert bool((plain[:, :3] > 0.99).all())
    assert bool((plain[:, 5:] < 0.01).all())
    torch.testing.assert_close(flipped, plain.flip(1), rtol=0, atol=0.02)


def test_a_mask_that_the_crop_leaves_black_is_refused_by_name(model: ModelSpec) -> None:
    write_manifest({"a.png": "first"})
    mask = Image.new("L", (40, 24), "black")
    mask.paste("white", (0, 0, 2, 24))
    mask.save("a-masklabel.png")
    write_manifest({"a.png": "first"})
    with pytest.raises(PictureError, match=r"a\.png: its loss mask is black in the part that training sees"):
        encode_latents(model, ViewSettings(16))


def test_pictures_keep_their_shape_in_buckets_where_they_are_not_cropped(model: ModelSpec) -> None:
    write_manifest({"a.png": "first"})
    encode_latents(model, ViewSettings(24, center_crop=False))
    ((height, width),) = LatentCache(Path("latents")).shapes()
    assert width > height
    assert width * SCALE % (2 * SCALE) == 0


def test_an_interrupted_encoding_goes_on_and_each_picture_is_decoded_once(
    model: ModelSpec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest({f"{n}.png": f"wall {n}" for n in range(6)})
    decoded: list[str] = []

    def decode_three(path: Path) -> Image.Image:
        decoded.append(path.name)
        if len(decoded) == 4:
            raise KeyboardInterrupt
        return decode_picture(path)

    with monkeypatch.context() as stopped:
        stopped.setattr("tasks.cache_latents.stage.decode_picture", decode_three)
        with pytest.raises(KeyboardInterrupt):
            encode_latents(model, ViewSettings(16, random_flip=True))
    assert decoded == ["0.png", "1.png", "2.png", "3.png"]
    assert not Path("latents").exists()
    encode_latents(model, ViewSettings(16, random_flip=True))
    assert "12 views for latents, 6 encoded now" in capsys.readouterr().out
    folders = {path.parent.name for path in Path("latents").glob("*/*.safetensors")}
    assert all(len(name) == 2 for name in folders)
    assert len(LatentCache(Path("latents"))) == 12


def test_a_resolution_that_the_vae_cannot_halve_is_refused_with_the_nearest(model: ModelSpec) -> None:
    write_manifest({"a.png": "first"})
    with pytest.raises(SettingsError, match="resolution must be a multiple of 4 for this base model, got 18: use 16"):
        encode_latents(model, ViewSettings(18))


def test_crops_are_views_of_their_own_and_held_out_pictures_have_none(
    model: ModelSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest({"a.png": "first"})
    encode_latents(model, ViewSettings(16))
    whole = json.loads(Path("latents/index.json").read_text())["items"]
    encode_latents(model, ViewSettings(16, views_per_picture=4, min_scale=0.1, max_scale=0.8))
    entries = json.loads(Path("latents/index.json").read_text())["items"]
    assert entries[0] == whole[0]
    assert [entry["caption"] for entry in entries] == ["first"] * len(entries)
    assert 2 <= len(entries) <= 4
    for entry in entries[1:]:
        left, top, right, bottom = entry["crop"]
        cut = decode_picture(Path("a.png")).crop((left, top, right, bottom))
        mean, _ = encode_posterior(load_vae(model), to_pixels(take_view(cut, View(16, 16, False)))[None])
        assert torch.equal(load_file(Path("latents") / entry["file"])["mean"], mean[0])
    assert len({entry["file"] for entry in entries}) == len(entries)
    assert len(json.loads(Path("latents_held_out/index.json").read_text())["items"]) == 1
    capsys.readouterr()
    encode_latents(model, ViewSettings(16, views_per_picture=2, min_scale=0.1, max_scale=0.8))
    assert json.loads(Path("latents/index.json").read_text())["items"] == entries[:2]
    assert "2 views for latents, 0 encoded now" in capsys.readouterr().out


def test_a_crop_shares_the_mask_and_one_that_is_black_all_over_is_left_out(model: ModelSpec) -> None:
    mask = Image.new("L", (40, 24), 0)
    mask.paste(255, (0, 0, 20, 24))
    mask.save("a-masklabel.png")
    write_manifest({"a.png": "first"})
    encode_latents(model, ViewSettings(16, views_per_picture=30, min_scale=0.1, max_scale=0.7))
    entries = json.loads(Path("latents/index.json").read_text())["items"]
    assert len(entries) >= 3
    for entry in entries[1:]:
        left, _, right, _ = entry["crop"]
        assert left < 20
        weights = load_file(Path("latents") / entry["file"])["loss_mask"]
        assert (bool(weights.min() == 1)) == (right <= 20) or abs(right - 20) <= 1
