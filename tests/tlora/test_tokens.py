import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pocket.tokenizers import build_clip_tokenizer, build_t5_tokenizer
from tlora.base_model import ModelSpec
from tlora.errors import ModelError
from tlora.tokens import count_tokens, load_tokenizers, truncate_caption


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a base model's folder with nothing but its real tokenizers."""
    folder = tmp_path_factory.mktemp("base")
    build_clip_tokenizer().save_pretrained(folder / "tokenizer")
    build_t5_tokenizer().save_pretrained(folder / "tokenizer_2")
    return folder


def test_tokens_are_counted_as_the_encoders_count_them(base: Path) -> None:
    clip, t5 = load_tokenizers(ModelSpec(str(base)), 77)
    captions = ["", "a matbrk wall", "a matbrk wall"]
    assert count_tokens(clip, captions) == {"": 2, "a matbrk wall": 5}  # with <|startoftext|> and <|endoftext|>
    assert count_tokens(t5, captions) == {"": 1, "a matbrk wall": 4}  # with </s>
    assert count_tokens(t5, []) == {}


def test_the_limits_are_clips_own_and_the_one_asked_of_t5(base: Path) -> None:
    assert [(t.encoder, t.limit) for t in load_tokenizers(ModelSpec(str(base)), 40)] == [("CLIP", 32), ("T5", 40)]


def test_a_caption_is_cut_where_the_encoder_stops_reading(base: Path) -> None:
    clip, t5 = load_tokenizers(ModelSpec(str(base)), 4)
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
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    found = load_tokenizers(ModelSpec("owner/flux"), 512)
    assert [count_tokens(t, ["a matbrk wall"])["a matbrk wall"] for t in found] == [5, 4]


def test_a_base_model_that_is_not_here_is_refused_rather_than_counted_wrongly(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(ModelError, match=r"tokenizer: no tokenizer there \(tokenizer.json or vocab.json\)"):
        load_tokenizers(ModelSpec(str(tmp_path)), 77)


def test_a_damaged_tokenizer_is_refused_in_one_line(tmp_path: Path) -> None:
    for folder in ("tokenizer", "tokenizer_2"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tokenizer.json").write_text("{bad")
    with pytest.raises(ModelError, match="its tokenizers cannot be read") as refused:
        load_tokenizers(ModelSpec(str(tmp_path)), 77)
    assert "\n" not in str(refused.value)


def test_counting_needs_no_torch() -> None:
    code = "import sys, tlora.tokens; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
