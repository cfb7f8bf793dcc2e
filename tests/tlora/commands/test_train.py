"""`tlora train`, as people type it, on a tiny random base."""

import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.processes import limit_memory
from tests.tlora.commands.workplace import write_config
from tlora.cli import main
from tlora.metadata.adapter import WEIGHTS_FILE, read_metadata

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(
    ["tlora.commands.flat_training"]
)  # each process starts with the imports done, and is as real as any other


def test_it_trains_and_says_what_people_want_to_know(folder: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(folder, base, min_rank=1)
    main(["train", "--config", "config.yaml"])
    said = capsys.readouterr().out
    assert sorted(str(p) for p in Path("out").glob("*/*.safetensors")) == [
        f"out/{name}/tlora_weights.safetensors" for name in ("checkpoint-1", "checkpoint-2", "final")
    ]
    assert "warning: no caption for 1 of the pictures, such as 1.png" in said
    assert "ranks 1 to 1 take part in every sample, rank 2 in 67%, 3 in 33% of the samples, rank 4 at timestep 0 alone" in said
    assert "train: 2/2 loss" in said
    assert "relative weight change: attn.to_k" in said
    metadata = read_metadata(Path("out/final/tlora_weights.safetensors"))
    assert (metadata.base, metadata.step, len(metadata.data_digest)) == (str(base), 2, 64)


@pytest.mark.slow
def test_stopped_and_killed_it_goes_on_to_the_same_bytes(folder: Path, base: Path) -> None:
    write_config(folder, base, max_train_steps=60, checkpointing_steps=10)
    process = start(folder)
    wait_for(folder / "out/checkpoint-10", process)
    os.kill(process.pid or 0, signal.SIGTERM)
    assert "tlora train: stopped: asked to stop; the state of step" in said_by(process, folder, 75)
    process = start(folder)
    wait_for(folder / "out/checkpoint-40", process)
    process.kill()
    process.join()
    assert "going on from step" in said_by(start(folder), folder)
    interrupted = digests(folder / "out")
    assert len(interrupted) == 7
    (folder / "out").rename(folder / "first")
    said_by(start(folder), folder)
    assert digests(folder / "out") == interrupted

    write_config(folder, base, learning_rate=0.01)  # another run in the same folder mixes with nothing
    said = said_by(start(folder), folder)
    assert "out: adapters of another run moved to out/former-1" in said
    assert "starting afresh at step 0: config.checkpointing_steps was 10, is 1" in said
    assert digests(folder / "out/former-1") == interrupted
    assert sorted(p.name for p in (folder / "out").glob("*/")) == [".state", "checkpoint-1", "checkpoint-2", "final", "former-1"]


@pytest.mark.slow
def test_two_processes_train_what_one_trains_with_the_doubled_batch_and_speak_once(folder: Path, base: Path) -> None:
    write_config(folder, base, train_batch_size=2, learning_rate=0.001, output_dir="one")
    said_by(start(folder), folder)
    write_config(folder, base, train_batch_size=1, learning_rate=0.001, output_dir="two")
    launch = ["-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launch, "--module", "tlora.cli", "train", "--config", "config.yaml"]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("2 steps done, adapters in two") == 1
    alone, together = (load_file(folder / name / "final" / WEIGHTS_FILE) for name in ("one", "two"))
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_out_of_memory_is_one_line_with_the_change_of_its_own_file_that_fits(folder: Path, base: Path) -> None:
    write_config(folder, base, train_batch_size=8192, checkpointing_steps=1, max_train_steps=1)
    said = said_by(start(folder, memory=500_000_000), folder, 1)
    (line,) = (line for line in said.splitlines() if "error" in line)
    assert line.startswith("tlora train: error: out of memory in ")
    assert "on cpu (peak by phase: loading 0." in line
    assert line.split("): ")[1].startswith("set train_batch_size: 4096 with gradient_accumulation_steps: 2, which needs about ")
    assert "Traceback" not in said
    assert "\nmemory: about " in said


def train_in(folder: str, memory: int) -> None:
    """Run the verb in a folder, as its command would."""
    os.chdir(folder)
    with Path("train.log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if memory:
        limit_memory(memory)
    main(["train", "--config", "config.yaml"])


def start(folder: Path, memory: int = 0) -> multiprocessing.process.BaseProcess:
    process = FORK.Process(target=train_in, args=(str(folder), memory))
    process.start()
    return process


def said_by(process: multiprocessing.process.BaseProcess, folder: Path, code: int = 0) -> str:
    """Wait for the end of a process; return what it said."""
    process.join(120)
    said = (folder / "train.log").read_text()
    assert process.exitcode == code, said
    return said


def wait_for(path: Path, process: multiprocessing.process.BaseProcess) -> None:
    while process.is_alive() and not path.exists():
        time.sleep(0.005)
    assert path.exists(), f"{path} never came"


def digests(folder: Path) -> dict[str, str]:
    return {
        p.parent.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("[cf]*/tlora_weights.safetensors"))
    }


def test_a_config_that_cannot_work_is_one_line_before_a_weight_is_loaded(
    folder: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlora.commands.flat_training.load_vae", None)  # nothing may come as far as loading
    for changes, line in CANNOT_WORK.items():
        write_config(folder, base, **yaml.safe_load(changes))
        with pytest.raises(SystemExit, match=line):
            main(["train", "--config", "config.yaml"])


CANNOT_WORK = {
    "resolution: 18": "resolution must be a multiple of 4 for this base model, got 18: use 16",
    "lora_rank: 33": "rank 33 is larger than a layer of 32 x 32 can hold: use at most 32",
    "train_data_dir: nowhere": "train_data_dir: nowhere: no such folder",
    "train_data_dir:": "train_data_dir is missing",
    "output_dir: config.yaml/out": "config.yaml/out: cannot be written .Not a directory.: choose another folder",
    "lora_rnk: 4": "config.yaml: unknown key 'lora_rnk', did you mean 'lora_rank'",
    "learning_rate: fast": "config.yaml.learning_rate: must be a number, got 'fast'",
    "min_rank: 4": "min_rank equals rank",
    "pretrained_model_name_or_path: no/such/folder": "no/such/folder: no base model there",
}


@pytest.mark.parametrize("config", ["nowhere.yaml", "pictures"])
def test_a_config_file_that_cannot_be_read_is_named(folder: Path, config: str) -> None:
    with pytest.raises(SystemExit, match=rf"^tlora train: error: {config}: "):
        main(["train", "--config", config])


def test_a_base_in_four_bits_is_trained_on_and_drawn_with(folder: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(folder, base, min_rank=1, quantisation="nf4")
    main(["train", "--config", "config.yaml"])
    assert read_metadata(Path("out/final/tlora_weights.safetensors")).base_quantisation == "nf4"
    drawing = ["--lora_path", "out/final", "--prompt", "a wall", "--outdir", "drawn", "--model_offload"]
    main(["infer", "--config", "config.yaml", *drawing])
    (picture,) = Path("drawn").iterdir()
    main(["infer", "--like", str(picture)])
    said = capsys.readouterr().out
    assert f"trained on {base} held as nf4" in said
    assert f"bit-equal to {picture}" in said


def test_a_rate_that_drowns_the_base_ends_in_one_line_and_in_no_adapter(folder: Path, base: Path) -> None:
    write_config(folder, base, learning_rate=1.0)
    with pytest.raises(
        SystemExit, match=r"^tlora train: error: step 2: the update of [\w.]+ is [^\n]* times its weight, more than is"
    ):
        main(["train", "--config", "config.yaml"])
    assert list(Path("out").rglob("final")) == []
