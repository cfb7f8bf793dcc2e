import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from pocket.tokenizers import build_clip_tokenizer, build_t5_tokenizer
from tlora.errors import ModelError
from tlora.flux.spec import ModelSpec
from tlora.pictures.tokens import count_tokens, load_tokenizers, truncate_caption


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a base model's folder with nothing but its real tokenizers."""
    folder = tmp_path_factory.mktemp("base")
    build_clip_tokenizer().save_pretrained(folder / "tokenizer")
    build_t5_tokenizer().save_pretrained(folder / "tokenizer_2")
    return folder


def test_tokens_are_counted_as_the_encoders_count_them(base: Path, tmp_path: Path) -> None:
    clip, t5 = load_tokenizers(ModelSpec(str(base)), 77, tmp_path)
    captions = ["", "a matbrk wall", "a matbrk wall"]
    assert count_tokens(clip, captions) == {"": 2, "a matbrk wall": 5}  # with <|startoftext|> and <|endoftext|>
    assert count_tokens(t5, captions) == {"": 1, "a matbrk wall": 4}  # with </s>
    assert count_tokens(t5, []) == {}


def test_the_limits_are_clips_own_and_the_one_asked_of_t5(base: Path, tmp_path: Path) -> None:
    assert [(t.encoder, t.limit) for t in load_tokenizers(ModelSpec(str(base)), 40, tmp_path)] == [("CLIP", 32), ("T5", 40)]


def test_a_caption_is_cut_where_the_encoder_stops_reading(base: Path, tmp_path: Path) -> None:
    clip, t5 = load_tokenizers(ModelSpec(str(base)), 4, tmp_path)
    assert truncate_caption(t5, "a photo of a matbrk wall") == ("a photo of", "a matbrk wall")
    assert truncate_caption(clip, "a photo of a matbrk wall") == ("a photo of a matbrk wall", "")
    assert truncate_caption(t5, "") == ("", "")


def test_a_hub_model_is_found_in_the_cache_with_flux1_devs_file_names(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = tmp_path / "hub" / "models--owner--flux"
    clip, t5 = stored / "snapshots" / "abc" / "tokenizer", stored / "snapshots" / "abc" / "tokenizer_2"
    clip.mkdir(parents=True)
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text("abc")
    whole = json.loads((base / "tokenizer" / "tokenizer.json").read_text())["model"]
    (clip / "vocab.json").write_text(json.dumps(whole["vocab"]))
    (clip / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in whole["merges"]) + "\n")
    (clip / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77, "unk_token": "<|endoftext|>"}))
    shutil.copytree(base / "tokenizer_2", t5)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    found = load_tokenizers(ModelSpec("owner/flux"), 512, tmp_path / "kept")
    assert [count_tokens(t, ["a matbrk wall"])["a matbrk wall"] for t in found] == [5, 4]


@pytest.mark.parametrize("known", [False, True], ids=["built", "kept"])
def test_counts_and_cuts_are_those_of_transformers(base: Path, tmp_path: Path, known: bool) -> None:
    """What cache_prompts encodes is what is counted here, of captions with everything in them that people write."""
    odd = [
        "Ａ ﬁne ﷺ  wall",
        "naïve café - ½ m² 🧱🧱",
        "don't it's WALLS",
        "\ttabs and\u00a0spaces ",
        "<|endoftext|> wall",
        "砖墙",
        "x" * 300,
    ]
    captions = ["", "a matbrk wall", *odd, *(" ".join(odd[:n]) for n in range(len(odd)))]
    if known:
        load_tokenizers(ModelSpec(str(base)), 9, tmp_path)
    clip, t5 = load_tokenizers(ModelSpec(str(base)), 9, tmp_path)
    for counted, theirs in ((clip, build_clip_tokenizer()), (t5, build_t5_tokenizer())):
        lengths = map(len, theirs(captions)["input_ids"])
        assert count_tokens(counted, captions) == dict(zip(captions, lengths, strict=True))
        for caption in captions:
            cut = theirs(caption, truncation=True, max_length=counted.limit, return_offsets_mapping=True)["offset_mapping"]
            assert truncate_caption(counted, caption)[0] == caption[: max(end for _, end in cut)]


def test_kept_tokenizers_are_read_without_transformers_and_damaged_ones_built_again(base: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tlora.flux.spec import ModelSpec\n"
        "from tlora.pictures.tokens import load_tokenizers\n"
        f"load_tokenizers(ModelSpec({str(base)!r}), 77, Path({str(tmp_path)!r})); print('transformers' in sys.modules)"
    )
    run = partial(subprocess.run, [sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert [run().stdout for _ in range(2)] == ["True\n", "False\n"]
    files = sorted(tmp_path.glob("*.json"))
    assert len(files) == 2
    files[0].write_bytes(files[0].read_bytes()[:100])
    assert [run().stdout for _ in range(2)] == ["True\n", "False\n"]


def test_other_files_of_a_base_model_are_other_tokenizers(base: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(base, changed)
    load_tokenizers(ModelSpec(str(base)), 77, tmp_path / "kept")
    config = changed / "tokenizer" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_max_length": 20}))
    assert [t.limit for t in load_tokenizers(ModelSpec(str(changed)), 77, tmp_path / "kept")] == [20, 77]


def test_a_base_model_that_is_not_here_is_refused_rather_than_counted_wrongly(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(ModelError, match=r"tokenizer: no tokenizer there \(tokenizer.json or vocab.json\)"):
        load_tokenizers(ModelSpec(str(tmp_path)), 77, tmp_path / "kept")


def test_a_damaged_tokenizer_is_refused_in_one_line(tmp_path: Path) -> None:
    for folder in ("tokenizer", "tokenizer_2"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tokenizer.json").write_text("{bad")
    with pytest.raises(ModelError, match="its tokenizers cannot be read") as refused:
        load_tokenizers(ModelSpec(str(tmp_path)), 77, tmp_path / "kept")
    assert "\n" not in str(refused.value)


def test_counting_needs_no_torch() -> None:
    code = "import sys, tlora.pictures.tokens; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
