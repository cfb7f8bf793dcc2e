"""What is loaded is what was saved, to the bit, or it is refused: nothing is ever hidden by a default."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.tiny_flux import predict, tiny_inputs, tiny_transformer
from tests.tlora.adapted import CFG, MASKS, ORTHO, adapted
from tlora.checkpoint import adapter_tensors, attach_adapter, load_tlora_weights, save_tlora_weights
from tlora.errors import CheckpointError, InjectionError
from tlora.inject import adapter_layers, inject_tlora_into_transformer, tlora_parameters
from tlora.metadata.adapter import WEIGHTS_FILE, AdapterMetadata, find_weights, read_metadata
from tlora.metadata.config import TLoRAConfig

SUFFIXES = ("to_q", "proj_out")
METADATA = AdapterMetadata(CFG, SUFFIXES, 1000.0, "models/pocket-flux", "abc", "d1", "p1", "c1", "brick", "matbrk", 50)
RANDOM_ORTHO = TLoRAConfig(4, 4.0, 0.0, 1, 1.0, "ortho_lora", "last", svd_source="random")


def saved(folder: Path, cfg: TLoRAConfig = CFG) -> tuple[nn.Module, Path]:
    """Return an adapted transformer and the file that holds its adapter."""
    transformer = adapted(cfg, SUFFIXES)
    file = folder / WEIGHTS_FILE
    save_tlora_weights(transformer, file, AdapterMetadata(cfg, SUFFIXES))
    return transformer, file


def rewritten(file: Path, change: Callable[[dict[str, Tensor], dict[str, str]], None]) -> Path:
    """Change the tensors or the metadata of a file."""
    tensors = load_file(file)
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    change(tensors, metadata)
    save_file(tensors, file, metadata)
    return file


def prepared(cfg: TLoRAConfig = CFG) -> nn.Module:
    transformer = tiny_transformer()
    inject_tlora_into_transformer(transformer, SUFFIXES, cfg, seed=9)
    return transformer


@pytest.mark.parametrize("cfg", [CFG, ORTHO, RANDOM_ORTHO], ids=["lora", "ortho_lora", "random ortho_lora"])
def test_a_loaded_adapter_predicts_the_same_bits_in_a_fresh_transformer(tmp_path: Path, cfg: TLoRAConfig) -> None:
    transformer, file = saved(tmp_path, cfg)
    fresh = tiny_transformer()
    assert attach_adapter(fresh, file).config == cfg
    given = {"sigma_mask": MASKS}
    assert torch.equal(predict(fresh, tiny_inputs(4), given), predict(transformer, tiny_inputs(4), given))


def test_the_initial_factors_are_saved_and_not_recomputed_on_load(tmp_path: Path) -> None:
    transformer, file = saved(tmp_path, RANDOM_ORTHO)
    before = adapter_tensors(transformer)
    assert "transformer_blocks.0.attn.to_q.base_q" in before
    fresh = prepared(RANDOM_ORTHO)  # of another seed
    load_tlora_weights(fresh, file)
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter_tensors(fresh).items())


def test_an_adapter_loaded_to_draw_with_stays_in_eval_mode_and_can_be_trained_on(tmp_path: Path) -> None:
    fresh = tiny_transformer().eval()
    attach_adapter(fresh, saved(tmp_path)[1])
    assert not any(module.training for module in fresh.modules())
    assert all(p.requires_grad for p in tlora_parameters(fresh))


def test_a_file_says_everything_about_itself(tmp_path: Path) -> None:
    transformer = adapted(CFG, SUFFIXES)
    save_tlora_weights(transformer, tmp_path / WEIGHTS_FILE, METADATA)
    assert read_metadata(tmp_path / WEIGHTS_FILE) == METADATA
    strings = METADATA.to_strings()
    fields_said = {field.name for field in fields(AdapterMetadata)} - {"family"}  # FLUX.1's files are as they were
    assert set(strings) == {"format_version", "readable_since"} | fields_said
    assert json.loads(strings["config"])["min_rank"] == 1
    assert json.loads(strings["target_modules"]) == ["to_q", "proj_out"]


def test_an_adapter_of_another_family_is_refused_with_both_names(tmp_path: Path) -> None:
    save_tlora_weights(adapted(CFG, SUFFIXES), tmp_path / WEIGHTS_FILE, replace(METADATA, family="FLUX.2 klein"))
    assert read_metadata(tmp_path / WEIGHTS_FILE).family == "FLUX.2 klein"
    with pytest.raises(CheckpointError, match=r"trained on a base of FLUX\.2 klein, and this one is of FLUX\.1$"):
        attach_adapter(tiny_transformer(), tmp_path / WEIGHTS_FILE)


def test_the_file_holds_the_adapter_alone(tmp_path: Path) -> None:
    _, file = saved(tmp_path)
    names = [f"transformer_blocks.{i}.attn.to_q" for i in (0, 1)]
    names += [f"single_transformer_blocks.{i}.{end}" for i in (0, 1) for end in ("attn.to_q", "proj_out")]
    assert set(load_file(file)) == {f"{name}.{end}.weight" for name in names for end in ("down", "up")}


def test_the_same_adapter_is_the_same_bytes_with_the_header_in_order(tmp_path: Path) -> None:
    transformer, file = saved(tmp_path)
    for i in range(5):
        save_tlora_weights(transformer, tmp_path / f"{i}.safetensors", AdapterMetadata(CFG, SUFFIXES))
        assert (tmp_path / f"{i}.safetensors").read_bytes() == file.read_bytes()
    raw = file.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert list(header) == sorted(header)
    assert list(header["__metadata__"]) == sorted(header["__metadata__"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [*(f"{i}.safetensors" for i in range(5)), WEIGHTS_FILE]


def test_a_folder_stands_for_the_weights_in_it(tmp_path: Path) -> None:
    _, file = saved(tmp_path)
    assert find_weights(tmp_path) == find_weights(file) == file
    with pytest.raises(CheckpointError, match=f"nothing: no adapter there .looked for {WEIGHTS_FILE}"):
        find_weights(tmp_path / "nothing")


def _drop(tensors: dict[str, Tensor], _: dict[str, str]) -> None:
    del tensors["transformer_blocks.1.attn.to_q.up.weight"]


def _rename(tensors: dict[str, Tensor], _: dict[str, str]) -> None:
    tensors["transformer_blocks.7.attn.to_q.up.weight"] = tensors.pop("transformer_blocks.1.attn.to_q.up.weight")


def _widen(tensors: dict[str, Tensor], _: dict[str, str]) -> None:
    tensors["transformer_blocks.1.attn.to_q.up.weight"] = torch.zeros(33, 4)


def _poison(tensors: dict[str, Tensor], _: dict[str, str]) -> None:
    tensors["transformer_blocks.1.attn.to_q.up.weight"][0, 0] = float("nan")


MISMATCHES = [
    (_drop, r"missing key 'transformer_blocks\.1\.attn\.to_q\.up\.weight' \(1 in all\)"),
    (_rename, r"unknown key 'transformer_blocks\.7\.attn\.to_q\.up\.weight' \(1 in all\)"),
    (_widen, r"transformer_blocks\.1\.attn\.to_q\.up\.weight is \(33, 4\), the layer needs \(32, 4\)"),
    (_poison, r"transformer_blocks\.1\.attn\.to_q\.up\.weight holds a value that is not finite"),
]


@pytest.mark.parametrize(("change", "message"), MISMATCHES)
def test_a_mismatch_is_refused_by_name_and_nothing_is_loaded(tmp_path: Path, change: Callable[..., None], message: str) -> None:
    file, transformer = rewritten(saved(tmp_path)[1], change), prepared()
    before = {name: tensor.clone() for name, tensor in adapter_tensors(transformer).items()}
    with pytest.raises(CheckpointError, match=f"{WEIGHTS_FILE}: {message}"):
        load_tlora_weights(transformer, file)
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter_tensors(transformer).items())


@pytest.mark.parametrize(("change", "message"), MISMATCHES)
def test_a_refused_file_leaves_no_adapter_behind(tmp_path: Path, change: Callable[..., None], message: str) -> None:
    file, transformer = rewritten(saved(tmp_path)[1], change), tiny_transformer()
    with pytest.raises(CheckpointError, match=message):
        attach_adapter(transformer, file)
    assert not adapter_layers(transformer)
    assert torch.equal(predict(transformer, tiny_inputs()), predict(tiny_transformer(), tiny_inputs()))


def test_not_strict_forgives_what_the_file_does_not_mention_and_nothing_else(tmp_path: Path) -> None:
    file = rewritten(saved(tmp_path)[1], _drop)
    load_tlora_weights(prepared(), file, strict=False)
    for change, message in MISMATCHES[1:]:
        with pytest.raises(CheckpointError, match=message):
            load_tlora_weights(prepared(), rewritten(saved(tmp_path)[1], change), strict=False)


def test_an_adapter_of_another_rank_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"down\.weight is \(4, 32\), the layer needs \(3, 32\)"):
        load_tlora_weights(prepared(TLoRAConfig(rank=3, alpha=3.0, min_rank=1)), saved(tmp_path)[1])


def test_an_adapter_for_another_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"missing key 'single_transformer_blocks\.2"):
        attach_adapter(tiny_transformer(blocks=3), saved(tmp_path)[1])


def test_a_second_adapter_is_refused_and_the_first_stays(tmp_path: Path) -> None:
    transformer, file = saved(tmp_path)
    with pytest.raises(InjectionError, match="already carries an adapter"):
        attach_adapter(transformer, file)
    assert len(adapter_layers(transformer)) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": "2"}, "written in format 2, this program reads up to 1: it needs flux-tlora 0.1.0"),
        ({"format_version": "x"}, "not a T-LoRA adapter"),
        ({"config": "{"}, "metadata is missing or unreadable"),
        ({"config": "[]"}, "metadata is missing or unreadable"),
        ({"config": '{"rank": 4}'}, "metadata is missing or unreadable: config: missing key 'alpha'"),
        ({"target_modules": "5"}, "metadata is missing or unreadable"),
        ({"step": "many"}, "metadata is missing or unreadable"),
    ],
)
def test_metadata_that_cannot_be_trusted_is_refused(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    file = rewritten(saved(tmp_path)[1], lambda _, metadata: metadata.update(changes))
    with pytest.raises(CheckpointError, match=f"{WEIGHTS_FILE}: {message}"):
        read_metadata(file)


def test_a_safetensors_file_of_something_else_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match="not a T-LoRA adapter"):
        attach_adapter(tiny_transformer(), tmp_path)


@pytest.mark.parametrize("kept", [0, 7, 100, 2000, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    _, file = saved(tmp_path)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=WEIGHTS_FILE):
        attach_adapter(tiny_transformer(), file)


def test_a_pickle_is_refused_and_not_opened(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1)}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        attach_adapter(tiny_transformer(), tmp_path)


def test_a_transformer_without_an_adapter_has_nothing_to_save_or_load_into(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing to save, the module carries no adapter"):
        save_tlora_weights(tiny_transformer(), tmp_path / WEIGHTS_FILE, METADATA)
    with pytest.raises(CheckpointError, match="carries no adapter to load into: inject one first"):
        load_tlora_weights(tiny_transformer(), saved(tmp_path)[1])
