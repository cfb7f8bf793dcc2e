"""What the doctor says of a machine, a model and data that are in order, and of ones that are not."""

import json
from pathlib import Path

import pytest
import yaml

from tests.tasks.data_folder import lay_out
from tlora.cli import main

ROOT = Path(__file__).parents[3]
TRANSFORMER = {"num_layers": 2, "num_single_layers": 4, "num_attention_heads": 4, "attention_head_dim": 32, "in_channels": 64}
TRANSFORMER |= {"joint_attention_dim": 128, "pooled_projection_dim": 128, "guidance_embeds": True}


@pytest.fixture
def ward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with pictures, params.yaml, and a base model without a weight in it."""
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path)
    params = yaml.safe_load((ROOT / "params/pocket.yaml").read_text())
    params["model"]["path"] = "base"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    for part, sizes in (("transformer", TRANSFORMER), ("vae", {"block_out_channels": [8, 16, 16]})):
        (tmp_path / "base" / part).mkdir(parents=True)
        (tmp_path / "base" / part / "config.json").write_text(json.dumps(sizes))
    (tmp_path / "base/model_index.json").write_text("{}")
    return tmp_path


def test_what_is_in_order_is_said_with_memory_and_time(ward: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (ward / "reports/train").mkdir(parents=True)
    (ward / "reports/train/log.jsonl").write_text("".join(f'{{"step": {n}, "seconds": 1.8}}\n' for n in range(30)))
    main(["doctor"])
    said = capsys.readouterr().out
    assert "versions: torch 2." in said
    assert "base model: base can be loaded" in said
    assert "(below HF_HOME)" in said
    assert "data: 6 pictures in data/images, 0 without a caption, 0 with a loss mask" in said
    assert "memory: about 0.0" in said
    assert "time: 200 steps of 1.80 s as the last run measured them: 0.10 hours of the device" in said


def test_whatever_is_wrong_is_said_at_once_each_in_a_line(
    ward: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(ward / "hub" / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(ward / "hub" / "hub"))
    params = (ward / "params.yaml").read_text().replace("path: base", "path: black-forest-labs/FLUX.1-dev")
    (ward / "params.yaml").write_text(params.replace("resolution: 64", "resolution: 72"))
    for file in (ward / "data/images").iterdir():
        file.unlink()
    with pytest.raises(SystemExit) as end:
        main(["doctor"])
    errors = [line for line in capsys.readouterr().out.splitlines() if line.startswith("error: ")]
    assert end.value.code == 1
    assert "accept its licence at https://huggingface.co/black-forest-labs/FLUX.1-dev" in errors[0]
    assert errors[1].startswith("error: data/images: holds no pictures")
    assert errors[2] == "error: resolution must be a multiple of 16 for this base model, got 72"


def test_it_says_what_to_set_for_a_card(ward: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--card", "8"])
    lines = capsys.readouterr().out.splitlines()
    said = next(i for i, line in enumerate(lines) if line.startswith("card: "))
    assert lines[said].startswith("card: the base fits as it is; nothing is recomputed; about 0.")
    assert lines[said].endswith(" of 8 GB, estimated and not measured; set")
    assert lines[said + 1 : said + 3] == ["  model:", "    quantisation: none"]
    main(["doctor", "--card", "0.001"])
    assert "card: 0.001 GB are too few for this base model, whatever is set" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"error: --card must be positive, got -1"):
        main(["doctor", "--card", "-1"])
