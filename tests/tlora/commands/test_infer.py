"""`tlora infer`, as people type it, on a tiny random base."""

import dataclasses
import io
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tlora.commands.workplace import adapter_file, write_config
from tlora.checkpoint import read_adapter, write_tensors
from tlora.cli import main
from tlora.drawing.draw import tiled
from tlora.drawing.offload import WaitNotifier
from tlora.drawing.picture_record import read_record
from tlora.flux.files import base_revision
from tlora.flux.spec import FluxShape, HubBase, ModelSpec
from tlora.metadata.config import TLoRAConfig
from tlora.trust.keys import make_keys
from tlora.trust.signing import sign

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["tlora.commands.flat_training", "tlora.drawing.draw"])


@pytest.fixture(autouse=True)
def adapters(folder: Path) -> None:
    """Two adapters beside the configuration."""
    adapter_file(folder / "one/tlora_weights.safetensors", TLoRAConfig(rank=4, min_rank=1, alpha=4), ("to_q", "to_v"), 1)
    adapter_file(folder / "two.safetensors", TLoRAConfig(rank=6, min_rank=2, alpha=3), ("to_k", "to_v"), 2)


def infer(*more: str, outdir: str = "drawn") -> list[str]:
    """Draw a wall with the first adapter, or as the options say; return the names of the files."""
    lora = [] if "--lora_path" in more else ["--lora_path", "one"]
    prompts = [] if {"--prompt", "--prompts_file"} & set(more) else ["--prompts_file", "prompts.txt"]
    main(["infer", "--config", "config.yaml", *lora, *prompts, "--outdir", outdir, *more])
    return sorted(path.name for path in Path(outdir).iterdir())


def pixels(path: Path | str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_files_have_the_names_that_people_know(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert infer("--num", "2", "--seed", "3") == [
        f"single_neutraltrigger_p0{p}_img0{i}_steps2_g3.5_lora1.00.png" for p in (0, 1) for i in (0, 1)
    ]
    said = capsys.readouterr().out
    assert "one/tlora_weights.safetensors: step 0, rank 4, trained on an unnamed base" in said
    assert "infer: 8/8" in said


def test_an_adapter_of_another_base_is_warned_of_and_one_of_this_base_in_any_form_is_not(
    folder: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, revision = folder / "one/tlora_weights.safetensors", base_revision(ModelSpec(str(base)))
    tensors, metadata = read_adapter(weights)
    ours, others = (revision, f"{base}@{revision}", ""), ("3de6", "o/flux@main")
    for recorded in (*ours, *others):
        told = dataclasses.replace(metadata, base="o/flux", base_revision=recorded)
        write_tensors(weights, tensors, told.to_strings())
        infer("--prompt", "a wall", "--steps", "1")
        warning = f"warning: one/tlora_weights.safetensors was trained on another base than {base}, or another revision of it"
        assert (warning in capsys.readouterr().out) is (recorded in others), recorded


def test_a_comparison_draws_every_seed_at_every_scale_and_lays_them_side_by_side(folder: Path) -> None:
    options = ("--ab_test", "--ab_scales", "0", "1", "--seed", "3", "--steps", "3", "--guidance", "2", "--prompt", "a wall")
    assert infer(*options) == [
        "ab_neutraltrigger_p00_img00_steps3_g2.0_lora0.00.png",
        "ab_neutraltrigger_p00_img00_steps3_g2.0_lora1.00.png",
        "ab_sheet_steps3_g2.0.png",
    ]
    at_0, at_1 = (pixels(f"drawn/ab_neutraltrigger_p00_img00_steps3_g2.0_lora{scale}.png") for scale in ("0.00", "1.00"))
    assert not np.array_equal(at_0, at_1)
    assert pixels("drawn/ab_sheet_steps3_g2.0.png").shape == (44 + 128 + 4, 150 + 2 * (128 + 4), 3)


def test_prompts_come_from_arguments_files_or_standard_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(infer("--prompt", "a wall", "--prompt", " a floor ", outdir="a")) == 2
    assert read_record(Path("a/single_neutraltrigger_p01_img00_steps2_g3.5_lora1.00.png")).prompt == "a floor"
    monkeypatch.setattr("sys.stdin", io.StringIO("a wall\n\n\na floor\n"))
    assert infer("--prompts_file", "-", outdir="b") == sorted(path.name for path in Path("a").iterdir())
    assert np.array_equal(*(pixels(f"{d}/single_neutraltrigger_p01_img00_steps2_g3.5_lora1.00.png") for d in "ab"))


@pytest.mark.parametrize("options", [["--batch", "3"], ["--tileable"], ["--merge"], ["--lora_path", "one", "two.safetensors"]])
def test_a_picture_says_enough_of_itself_to_be_drawn_again(
    options: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    infer("--num", "2", "--sigma-mask", "step_index", *options)
    (picture,) = Path("drawn").glob("*p01_img00*1.00.png")
    said = capsys.readouterr().out
    record = read_record(picture)
    assert (record.prompt, record.seed, record.sample.sigma_mask) == ("a matbrk ball", 0, "step_index")
    assert [len(adapter.digest) for adapter in record.adapters] == [64] * len(record.adapters)
    main(["infer", "--like", str(picture)])
    again = Path("drawn") / f"{picture.stem}_again.png"
    assert f"{again}: bit-equal to {picture}" in capsys.readouterr().out
    assert read_record(again) == record
    if "--tileable" in options:
        preview = picture.with_name(f"{picture.stem}_tiled.png")
        assert np.array_equal(pixels(preview), np.asarray(tiled(Image.fromarray(pixels(picture)))))
        assert f"{picture}: seam ratio " in said


def test_a_picture_is_not_drawn_again_with_something_else(folder: Path) -> None:
    infer("--prompt", "a wall")
    (picture,) = Path("drawn").iterdir()
    with pytest.raises(SystemExit, match=r"two\.safetensors: not the adapter that the picture was drawn with"):
        main(["infer", "--like", str(picture), "--lora_path", "two.safetensors"])
    scheduler = Path(read_record(picture).base) / "scheduler" / "other.json"
    scheduler.write_text("{}")
    with pytest.raises(SystemExit, match="not the base model that the picture was drawn with"):
        main(["infer", "--like", str(picture)])
    scheduler.unlink()
    Image.fromarray(pixels(picture)).save("stripped.png")
    with pytest.raises(SystemExit, match=r"stripped\.png: does not say how it was drawn"):
        main(["infer", "--like", "stripped.png"])
    with pytest.raises(SystemExit, match=r"prompts\.txt: not a readable PNG"):
        main(["infer", "--like", "prompts.txt"])


def test_several_adapters_have_a_scale_each(folder: Path) -> None:
    both = ("--lora_path", "one", "two.safetensors", "--prompt", "a wall")
    assert infer(*both, "--lora_scale", "1", "0") == ["single_neutraltrigger_p00_img00_steps2_g3.5_lora1.00+0.00.png"]
    infer("--prompt", "a wall", outdir="alone")
    alone = pixels("alone/single_neutraltrigger_p00_img00_steps2_g3.5_lora1.00.png").astype(int)
    together = pixels("drawn/single_neutraltrigger_p00_img00_steps2_g3.5_lora1.00+0.00.png").astype(int)
    assert abs(alone - together).max() <= 1
    with pytest.raises(SystemExit, match="--lora_scale: one for all adapters or one for each of 2"):
        infer(*both, "--lora_scale", "1", "0", "2")


@pytest.mark.parametrize("mode", ["sequential", "model"])
def test_offloading_says_what_it_waits_for_and_draws_the_same(
    mode: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    infer("--prompt", "a wall", outdir="here")
    assert "offload" not in capsys.readouterr().out
    infer("--prompt", "a wall", f"--{mode}_offload")
    said = capsys.readouterr().out
    expected = {"sequential": "waits for its weights to be copied to cpu", "model": "waiting for the VAE (0.0 GB) to reach cpu"}
    assert expected[mode] in said
    name = "single_neutraltrigger_p00_img00_steps2_g3.5_lora1.00.png"
    assert np.array_equal(pixels(f"here/{name}"), pixels(f"drawn/{name}"))


def test_a_wait_is_mentioned_as_long_as_it_lasts() -> None:
    said: list[str] = []
    with WaitNotifier(said.append, patience=0.05) as notifier:
        with notifier.on("the weights of block 3"):
            time.sleep(0.3)
        count = len(said)
        time.sleep(0.2)
    assert said[0] == "waiting for the weights of block 3, 0 s so far"
    assert len(said) == count >= 2


WRONG = {
    "--prompts_file latin1.txt": r"latin1\.txt: not UTF-8 text .byte 14.: save it as UTF-8",
    "--prompts_file empty.txt": r"empty\.txt: holds no prompt: one a line",
    "--prompts_file kohya.txt": r"kohya\.txt: '--w 512' is an option of another tool's prompt files",
    "--prompts_file comments.txt": r"comments\.txt: holds no prompt: one a line",
    "--prompts_file nowhere.txt": r"nowhere\.txt: cannot be read: No such file",
    "--prompts_file pictures": r"pictures: cannot be read: Is a directory",
    "--prompt x --prompts_file prompts.txt": "give --prompt or --prompts_file, not both",
    "--lora_path nowhere": "nowhere: no adapter there",
    "--lora_path pictures": "pictures: no adapter there",
    "--lora_path config.yaml": r"config\.yaml: not a safetensors file",
    "--outdir config.yaml/drawn": "config.yaml/drawn: cannot be written .Not a directory.: choose another folder",
    "--num 0": "--num must be at least 1, got 0",
    "--steps 0": "--steps must be at least 1, got 0",
    "--merge --sequential_offload": "merging takes one adapter",
}


@pytest.mark.parametrize("options", WRONG)
def test_what_is_wrong_is_one_line_before_a_weight_is_loaded(
    options: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tlora.drawing.draw.embed_captions", None)  # nothing may come as far as loading
    Path("latin1.txt").write_bytes("mur de pierre \xe9tonnant".encode("latin-1")[0:13] + b"\xe9")
    Path("empty.txt").write_text("\n \n")
    Path("kohya.txt").write_text("# walls\na matbrk wall --w 512 --h 512 --d 1\n")
    Path("comments.txt").write_text("# a matbrk wall\n")
    with pytest.raises(SystemExit, match=f"^tlora infer: error: [^\n]*{WRONG[options]}[^\n]*$"):
        infer(*options.split())


def test_the_troubles_that_people_had_are_met_before_a_weight_is_loaded(
    folder: Path, base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "hub" / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub" / "hub"))
    write_config(folder, "black-forest-labs/FLUX.1-dev")
    infer_options = ["--lora_path", "one", "--outdir", "drawn", "--prompt", "a wall"]
    for verb, options in (("train", []), ("infer", infer_options)):
        with pytest.raises(
            SystemExit, match=r"accept its licence at https://huggingface.co/black-forest-labs/FLUX.1-dev.*HF_TOKEN"
        ):
            main([verb, "--config", "config.yaml", *options])
        monkeypatch.setattr("tlora.flux.files.hub_base", lambda path: HubBase(FluxShape(), 1e18, is_gated=True))
        with pytest.raises(SystemExit, match=r"GB free, .* GB needed: free some, or set HF_HOME"):
            main([verb, "--config", "config.yaml", *options, "--hf_token", "planted"])
        monkeypatch.delenv("HF_TOKEN")
        with monkeypatch.context() as old:
            old.setattr("importlib.metadata.version", lambda name: "2.4.1+cu121")
            with pytest.raises(SystemExit, match=r"torch 2\.4\.1\+cu121 is too old: .*enable_gqa.* pip install 'torch>=2\.5'"):
                main([verb, "--config", "config.yaml", *options])
    write_config(folder, base)
    monkeypatch.setattr("tlora.commands.flat_training.OUTPUT_BYTES", 1e18)
    with pytest.raises(SystemExit, match=r"out: .* GB free, .* GB needed: free some, or choose another output_dir"):
        main(["train", "--config", "config.yaml"])


def draw_many(folder: str) -> None:
    os.chdir(folder)
    infer("--num", "400", "--steps", "1")


@pytest.mark.slow
def test_killed_it_leaves_whole_pictures_only(folder: Path) -> None:
    process = FORK.Process(target=draw_many, args=(str(folder),))
    process.start()
    while process.is_alive() and len(list(Path("drawn").glob("*.png"))) < 3:
        time.sleep(0.01)
    process.kill()
    process.join()
    files = list(Path("drawn").glob("*.png"))
    assert 3 <= len(files) < 800
    for file in files:
        assert pixels(file).shape == (16, 16, 3)


def test_only_adapters_that_are_signed_as_params_yaml_asks_are_drawn_with(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    private, public = make_keys(tmp_path_factory.mktemp("keys"))
    Path("params.yaml").write_text(f"trust: {{public_key: {public}, private_key: ''}}")
    with pytest.raises(SystemExit, match=r"one/tlora_weights\.safetensors: is not signed \(there is no one\.sig\)"):
        infer()
    sign(Path("one/tlora_weights.safetensors"), Path("one.sig"), private)
    (drawn, _) = infer("--steps", "1")
    with pytest.raises(SystemExit, match=r"two\.safetensors: is not signed"):
        infer("--lora_path", "one", "two.safetensors")
    with Path("one/tlora_weights.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(SystemExit, match=r"one/tlora_weights\.safetensors: was altered since it was signed$"):
        main(["infer", "--like", f"drawn/{drawn}"])
    other = make_keys(tmp_path_factory.mktemp("other"))[1]
    with pytest.raises(SystemExit, match=f"is signed with another key .* than {other}"):
        infer("--public_key", str(other))
