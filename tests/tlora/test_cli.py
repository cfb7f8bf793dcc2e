"""`tlora train`, `tlora infer` and `tlora inspect`, as people type them, on a tiny random base."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.tiny_flux import tiny_pipeline_folder
from tlora.cli import main

CONFIG = {
    "train_data_dir": "pictures",
    "output_dir": "out",
    "mixed_precision": "no",
    "resolution": 16,
    "max_train_steps": 2,
    "checkpointing_steps": 1,
    "lora_rank": 4,
    "learning_rate": 0.5,
    "num_inference_steps": 2,
    "max_sequence_length": 16,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pipeline on disk."""
    return tiny_pipeline_folder(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def folder(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two captioned pictures, a configuration and prompts."""
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"pictures/{number}.png")
    Path("pictures/0.txt").write_text("a matbrk wall")
    Path("config.yaml").write_text(yaml.safe_dump({**CONFIG, "pretrained_model_name_or_path": str(base)}))
    Path("prompts.txt").write_text("a matbrk wall\n\na matbrk ball\n")
    return tmp_path


def infer(*more: str) -> list[str]:
    """Draw with the final adapter; return the names of the files."""
    main(
        [
            "infer",
            "--config",
            "config.yaml",
            "--lora_path",
            "out/final",
            "--prompts_file",
            "prompts.txt",
            "--outdir",
            "drawn",
            *more,
        ]
    )
    return sorted(path.name for path in Path("drawn").iterdir())


def test_train_then_infer_then_inspect(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "--config", "config.yaml"])
    names = ["checkpoint-1", "checkpoint-2", "final"]
    assert [(Path("out") / name / "tlora_weights.safetensors").is_file() for name in names] == [True] * 3
    assert "train: 2/2 loss" in capsys.readouterr().out

    assert infer("--num", "1", "--seed", "3") == [
        "single_neutraltrigger_p00_img00_steps2_g3.5_lora1.00.png",
        "single_neutraltrigger_p01_img00_steps2_g3.5_lora1.00.png",
    ]
    drawn = infer("--ab_test", "--ab_scales", "0", "1", "--seed", "3", "--steps", "3", "--guidance", "2")
    at_0, at_1 = (f"drawn/ab_neutraltrigger_p00_img00_steps3_g2.0_lora{scale}.png" for scale in ("0.00", "1.00"))
    assert {Path(at_0).name, Path(at_1).name} <= set(drawn)
    assert not np.array_equal(np.asarray(Image.open(at_0)), np.asarray(Image.open(at_1)))

    main(["inspect", "out/final"])
    shown = capsys.readouterr().out
    assert "schedule        2 at timestep 1000 to 4 at 0, exponent 1" in shown
    assert "transformer_blocks.0.attn.to_q" in shown


def test_what_is_wrong_is_one_line(folder: Path) -> None:
    Path("wrong.yaml").write_text("pretrained_model_name_or_path: x/y\nlora_rnk: 4\n")
    with pytest.raises(SystemExit, match=r"wrong\.yaml: unknown key 'lora_rnk', did you mean 'lora_rank'"):
        main(["train", "--config", "wrong.yaml"])
    with pytest.raises(SystemExit, match=r"out/final: no adapter there"):
        infer()
    Path("prompts.txt").write_bytes("mur de pierre \xe9tonnant".encode("latin-1"))
    with pytest.raises(SystemExit, match=r"prompts\.txt: not UTF-8"):
        infer()
    Path("prompts.txt").write_text("\n\n")
    with pytest.raises(SystemExit, match=r"prompts\.txt: holds no prompt"):
        infer()
    with pytest.raises(SystemExit, match=r"nowhere\.yaml: no such file"):
        main(["train", "--config", "nowhere.yaml"])


@pytest.mark.parametrize("arguments", [["paint"], ["infer", "--sedd", "3"], []])
def test_an_unknown_verb_or_flag_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    said = capsys.readouterr().err
    assert (stopped.value.code, said.count("\n")) == (2, 1)
    assert said.startswith("tlora")
    assert "--help" in said
