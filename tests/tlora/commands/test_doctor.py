"""What the doctor says of a machine, a model and data that are in order, and of ones that are not."""

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml

from tests.tasks.data_folder import lay_out
from tests.tiny_klein import tiny_klein_folder
from tlora.cli import main
from tlora.flux.spec import FluxShape

ROOT = Path(__file__).parents[3]
TRANSFORMER = {"num_layers": 2, "num_single_layers": 4, "num_attention_heads": 4, "attention_head_dim": 32, "in_channels": 64}
TRANSFORMER |= {"joint_attention_dim": 128, "pooled_projection_dim": 128, "guidance_embeds": True}


LOOP = {"train_batch_size": 4, "gradient_accumulation_steps": 1, "gradient_checkpointing": False, "compile": False}
MODEL = {"path": "base"}
RUN = {"params": {"model": MODEL, "train": {"training": {"loop": LOOP}}}, "device": "cpu", "image_tokens": 64}


@pytest.fixture
def ward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with pictures, params.yaml, and a base model without a weight in it."""
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path)
    params = yaml.safe_load((ROOT / "params/pocket.yaml").read_text())
    params["model"]["path"] = "base"
    params["evaluate"]["evaluator"] = "openai/clip-vit-base-patch32"  # on the hub, and never asked for
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    for part, sizes in (("transformer", TRANSFORMER), ("vae", {"block_out_channels": [8, 16, 16]})):
        (tmp_path / "base" / part).mkdir(parents=True)
        (tmp_path / "base" / part / "config.json").write_text(json.dumps(sizes))
    (tmp_path / "base/model_index.json").write_text("{}")
    return tmp_path


def test_what_is_in_order_is_said_with_memory_and_time(ward: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (ward / "reports/train").mkdir(parents=True)
    rate = FluxShape(2, 4, 128, 32, 128, 128, 64).training_flops(64, 77) * 4 / 1.8 / 0.25  # 4 samples in 1.8 s at an MFU of 25 %
    (ward / "reports/train/log.jsonl").write_text('{"seconds": 1.8, "mfu": 0.25}\n' * 30)
    (ward / "reports/train/run.json").write_text(json.dumps(RUN | {"matmul_rate": rate}))
    main(["doctor"])
    said = capsys.readouterr().out
    assert "versions: torch 2." in said
    assert "base model: base is here" in said
    assert torch.cuda.is_available() or "device: no GPU here: everything runs on the CPU" in said
    assert "(below HF_HOME)" in said
    assert "data: 6 pictures in data/images, 0 without a caption, 0 with a loss mask" in said
    assert "memory: about 0.0" in said
    assert "time: 150 steps of 1.80 s, as the last run measured them: 0.07 hours of the device" in said
    assert "drawing: 64 x 64 in 16 steps: " in said


def test_guidance_by_a_second_forward_is_in_the_time_of_a_picture(ward: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = yaml.safe_load((ward / "params.yaml").read_text())
    params["model"]["path"] = str(tiny_klein_folder(ward / "klein"))
    (ward / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(SystemExit):  # the pocket's targets miss the single blocks
        main(["doctor"])
    said = capsys.readouterr().out
    assert "drawing: 64 x 64 in 16 steps of two forwards, for guidance: " in said
    assert "leaves all 2 single_transformer_blocks untouched: use [" in said


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("card", "says"),
    [
        ("12", ["card: the base fits as it is; every block is recomputed; about 9.82 GB", "gradient_checkpointing: true"]),
        ("24", ["card: the base fits as it is; every 4th block is recomputed; about 20.50 GB", "gradient_checkpointing: 4"]),
    ],
)
def test_klein_fits_a_card_of_12_and_of_24_gb_as_the_command_says(ward: Path, card: str, says: list[str]) -> None:
    shutil.copy(ROOT / "params/flux2-klein-base-4b.yaml", "params.yaml")
    away = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(ward / "hub")}  # where nobody listens
    command = [Path(sys.executable).with_name("tlora"), "doctor", "--card", card]
    run = subprocess.run(command, env=os.environ | away | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    lines = [line.strip() for line in run.stdout.splitlines()]
    assert all(any(line.startswith(beginning) for line in lines) for beginning in says), run.stdout + run.stderr
    fits = next(line for line in lines if line.startswith("card: "))
    assert fits.endswith(f" of {card} GB, estimated and not measured; set")
    written = yaml.safe_load(Path("params.yaml").read_text())["train"]["gradient_checkpointing"]
    assert (says[1] == f"gradient_checkpointing: {written}") == (card == "24")  # which the file is for
    assert [line for line in lines if line.startswith("error: ") and " GB needed: " not in line] == []  # room is the machine's


@pytest.mark.parametrize(
    "change",
    [
        {"params": RUN["params"] | {"model": {"path": "models/another"}}},
        {
            "params": RUN["params"]
            | {"train": {"training": {"loop": LOOP | {"train_batch_size": 2, "gradient_accumulation_steps": 2}}}}
        },
        {"matmul_rate": 1e9},
        {"device": "NVIDIA H100 80GB HBM3"},
        {"image_tokens": 32},
        {"device": None},  # as runs of former versions, which say nothing of it
    ],
)
def test_the_pace_of_another_base_size_batch_device_or_of_lighter_steps_is_not_this_ones(
    ward: Path, change: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    (ward / "reports/train").mkdir(parents=True)
    rate = FluxShape(2, 4, 128, 32, 128, 128, 64).training_flops(64, 77) * 4 / 1.8 / 0.25
    (ward / "reports/train/log.jsonl").write_text('{"seconds": 1.8, "mfu": 0.25}\n' * 30)
    (ward / "reports/train/run.json").write_text(json.dumps(RUN | {"matmul_rate": rate} | change))
    main(["doctor"])
    assert ", estimated and not measured: " in capsys.readouterr().out


@pytest.mark.slow
def test_servers_that_are_meant_to_be_there_prove_themselves_or_fail(
    ward: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")  # where nobody listens
    with pytest.raises(SystemExit) as end:
        main(["doctor"])
    said = capsys.readouterr().out
    assert end.value.code == 1
    assert "served: Prefect     FAILS  http://127.0.0.1:9/api does not answer: make serve" in said
    assert "served: MLflow      ok " in said


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does: a gated model for one token alone."""

    def do_HEAD(self) -> None:
        known = self.headers.get("authorization") == "Bearer hf_right"
        self.send_response(200 if known else 401)
        for name, value in (("X-Repo-Commit", "3de6"), ("ETag", '"1"'), ("Content-Length", "2")) if known else ():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("token", "says"),
    [
        ("hf_right", "base model: someone/gated is not here; the hub gives it to this token"),
        ("hf_wrong", "error: someone/gated: the hub refuses it with this token (HTTP 401): accept its licence"),
        ("", "base model: someone/gated is not here, and the hub was not reached: token and access were not asked"),
    ],
)
def test_the_hub_is_asked_where_it_is_reached_and_else_it_says_that_it_was_not(ward: Path, token: str, says: str) -> None:
    params = (ward / "params.yaml").read_text().replace("path: base", "path: someone/gated")
    (ward / "params.yaml").write_text(params)
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_port if token else 9  # where nobody listens
        hub = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_TOKEN": token or "hf_any", "HF_HOME": str(ward / "hub")}
        command = [sys.executable, "-c", "from tlora.cli import main; main(['doctor'])"]
        run = subprocess.run(
            command, env=os.environ | hub | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
        )
        server.shutdown()
    assert says in run.stdout, run.stdout + run.stderr
    assert run.returncode == (1 if "error" in says else 0)
    assert "has 11.9 billion weights, too many to train on a CPU" in run.stdout or torch.cuda.is_available()
