"""A file that cannot be trusted is one clear line from every verb that reads one, and nothing is written."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from tests.tiny_flux import tiny_pipeline_folder
from tests.tlora.adapted import CFG, read, saved
from tlora.cli import main
from tlora.metadata.adapter import WEIGHTS_FILE

UP = "transformer_blocks.1.attn.to_q.up.weight"


def missing_layer_half(file: Path) -> None:
    tensors, metadata = read(file)
    del tensors[UP]
    save_file(tensors, file, metadata)


def missing_layer(file: Path) -> None:
    tensors, metadata = read(file)
    save_file({key: tensor for key, tensor in tensors.items() if "transformer_blocks.1.attn" not in key}, file, metadata)


def other_shapes(file: Path) -> None:
    tensors, metadata = read(file)
    save_file(tensors | {UP: torch.zeros(32, 5)}, file, metadata)


def other_base(file: Path) -> None:
    tensors, metadata = read(file)
    wider = {key: torch.zeros(48, 4) if key.endswith("up.weight") else torch.zeros(4, 48) for key in tensors}
    save_file(wider, file, metadata)


def not_a_number(file: Path) -> None:
    tensors, metadata = read(file)
    tensors[UP][0, 0] = float("nan")
    save_file(tensors, file, metadata)


def a_pickle(file: Path) -> None:
    torch.save({UP: torch.zeros(32, 4)}, file)


def an_old_pickle(file: Path) -> None:
    torch.save({UP: torch.zeros(32, 4)}, file, _use_new_zipfile_serialization=False)


def a_huge_header(file: Path) -> None:
    file.write_bytes((2**40).to_bytes(8, "little") + b"{}" + b" " * 100)


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def cut_off_in_the_header(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def nothing(file: Path) -> None:
    file.unlink()


PICKLE = "not a safetensors file: it is a pickle"
DAMAGED: dict[Callable[[Path], None], str] = {
    missing_layer_half: rf"missing key '{UP}'",
    other_shapes: rf"{UP} is \(32, 5\), .* needs \(32, 4\)",
    not_a_number: f"{UP} holds a value that is not finite",
    a_pickle: PICKLE,
    an_old_pickle: PICKLE,
    a_huge_header: r"not a safetensors file: it claims a header of 1,099,511,627,776 bytes and has 110",
    cut_off: "not a safetensors file: damaged or cut off",
    cut_off_in_the_header: r"not a safetensors file: it claims a header of .* bytes and has 100",
    empty: "not a safetensors file: it claims a header of 0 bytes and has 0",
    nothing: "no adapter there",
}
UNFIT: dict[Callable[[Path], None], str] = {
    missing_layer: r"missing key 'single_transformer_blocks\.1\.attn\.to_q.* another base, it names models/tiny",
    other_base: r"is \(4, 48\), the layer needs \(4, 32\): made for .* another base, it names models/tiny",
}


def one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail, and return its message, which must be one line and all that is said."""
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    message = str(refused.value)
    assert "\n" not in message
    assert message.startswith(f"tlora {arguments[0]}: error: ")
    assert "Traceback" not in capsys.readouterr().err
    return message


def in_order(message: str, *parts: str) -> None:
    assert re.search(".*".join(parts), message), message


@pytest.mark.parametrize("damage", DAMAGED, ids=lambda damage: damage.__name__)
def test_looking_and_exporting_refuse_what_is_damaged(
    tmp_path: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = saved(tmp_path / "adapter", CFG, ("to_q",))
    damage(folder / WEIGHTS_FILE)
    in_order(one_line(["inspect", str(folder)], capsys), "adapter", DAMAGED[damage])
    in_order(
        one_line(["export", str(folder), "--format", "kohya", "--out", str(tmp_path / "out.safetensors")], capsys),
        DAMAGED[damage],
    )
    assert not (tmp_path / "out.safetensors").exists()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline_folder(tmp_path_factory.mktemp("base") / "tiny")


@pytest.mark.slow
@pytest.mark.parametrize("damage", {**DAMAGED, **UNFIT}, ids=lambda damage: damage.__name__)
def test_drawing_refuses_what_is_damaged_or_does_not_fit_the_base(
    tmp_path: Path, base: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = saved(tmp_path / "adapter", CFG, ("to_q",))
    damage(folder / WEIGHTS_FILE)
    config = {"pretrained_model_name_or_path": str(base), "resolution": 16, "max_sequence_length": 16, "mixed_precision": "no"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "prompts.txt").write_text("a wall\n")
    files = ["--config", str(tmp_path / "config.yaml"), "--prompts_file", str(tmp_path / "prompts.txt")]
    message = one_line(["infer", *files, "--lora_path", str(folder), "--outdir", str(tmp_path / "drawn")], capsys)
    in_order(message, {**DAMAGED, **UNFIT}[damage])
    assert not list(tmp_path.glob("drawn/*.png"))
