"""What other tools load is what we draw with at full rank: through diffusers and PEFT themselves, and back again."""

import re
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tests.tiny_flux import predict, tiny_inputs, tiny_pipeline, tiny_transformer
from tests.tlora.adapted import CFG, EVERY_SUFFIX, MASKS, ORTHO, saved
from tlora.checkpoint import attach_adapter
from tlora.cli import main
from tlora.errors import CheckpointError
from tlora.exchange.export import kohya_tensors
from tlora.exchange.layers import read_layers
from tlora.inject import adapter_layers
from tlora.metadata.adapter import WEIGHTS_FILE
from tlora.metadata.config import TLoRAConfig

HALF = TLoRAConfig(rank=4, alpha=2.0, min_rank=1)
FULL = {"sigma_mask": torch.ones(1, 4)}
ALL_DOUBLE = tuple(s for s in EVERY_SUFFIX if s not in ("proj_mlp", "proj_out", "norm.linear"))


def exported(folder: Path, dialect: str, cfg: TLoRAConfig = CFG, suffixes: tuple[str, ...] = EVERY_SUFFIX) -> tuple[Tensor, Path]:
    """Return what we predict at full rank, and the exported file."""
    transformer, adapter = saved(folder / "adapter", cfg, suffixes)
    main(["export", str(adapter), "--format", dialect, "--out", str(folder / f"{dialect}.safetensors")])
    return predict(transformer, tiny_inputs(2), dict(FULL)), folder / f"{dialect}.safetensors"


def pipeline_with(file: Path) -> FluxPipeline:
    pipeline = tiny_pipeline()
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name="ours")
    return pipeline


@pytest.mark.parametrize("cfg", [CFG, HALF, ORTHO], ids=["lora", "alpha is half the rank", "ortho_lora"])
def test_diffusers_predicts_with_the_exported_file_what_we_predict_at_full_rank(tmp_path: Path, cfg: TLoRAConfig) -> None:
    expected, file = exported(tmp_path, "diffusers", cfg)
    bare = predict(tiny_transformer(), tiny_inputs(2))
    got = predict(pipeline_with(file).transformer, tiny_inputs(2))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(got, bare, rtol=1e-2, atol=1e-2)


def test_every_layer_is_in_the_file_with_ortho_folded_to_twice_the_rank(tmp_path: Path) -> None:
    _, file = exported(tmp_path, "diffusers", ORTHO)
    layers, _ = read_layers(tmp_path / "adapter")
    tensors = load_file(file)
    assert set(tensors) == {f"transformer.{name}.lora_{end}.weight" for name in layers for end in "AB"}
    assert {tensor.shape[0] for key, tensor in tensors.items() if key.endswith("lora_A.weight")} == {8}


@pytest.mark.parametrize("dialect", ["diffusers", "kohya"])
def test_an_exported_file_says_that_it_is_unmasked_and_what_it_was_trained_on(tmp_path: Path, dialect: str) -> None:
    _, file = exported(tmp_path, dialect)
    with safe_open(file, framework="pt") as opened:
        assert opened.metadata() == {
            "format": "pt",
            "tlora_export": dialect,
            "tlora_format_version": "1",
            "tlora_mask": "none: full rank at every step",
            "tlora_base": "models/tiny",
            "tlora_data_digest": "d1",
            "tlora_step": "7",
            "tlora_trigger": "matbrk",
        }


def test_every_kohya_key_is_one_that_comfyui_and_kohya_have_for_flux(tmp_path: Path) -> None:
    """ComfyUI maps lora_unet_<name> for every weight of BFL's model, dots as underscores; these are its names."""
    double = r"double_blocks_[01]_(img|txt)_(attn_qkv|attn_proj|mlp_0|mlp_2|mod_lin)"
    single = r"single_blocks_[01]_(linear1|linear2|modulation_lin)"
    _, file = exported(tmp_path, "kohya")
    tensors = load_file(file)
    linears = {key.split(".")[0] for key in tensors}
    assert all(re.fullmatch(f"lora_unet_({double}|{single})", linear) for linear in linears)
    assert len(linears) == 2 * 10 + 2 * 3  # all of them: every Linear of the blocks was adapted
    assert set(tensors) == {f"{linear}.{end}" for linear in linears for end in ("lora_up.weight", "lora_down.weight", "alpha")}
    shapes = {
        "double_blocks_0_img_attn_qkv": (96, 12),
        "single_blocks_0_linear1": (32 * 7, 16),
        "double_blocks_0_txt_mlp_2": (32, 4),
    }
    assert {linear: tuple(tensors[f"lora_unet_{linear}.lora_up.weight"].shape) for linear in shapes} == shapes
    assert tensors["lora_unet_single_blocks_0_linear1.alpha"].item() == 16.0  # its own rank: nothing is scaled


@pytest.mark.parametrize("cfg", [CFG, ORTHO], ids=["lora", "ortho_lora"])
@pytest.mark.parametrize("suffixes", [ALL_DOUBLE, ("add_q_proj", "add_v_proj", "to_out.0")], ids=["all", "two of three"])
def test_diffusers_own_converter_reads_the_kohya_file_as_it_reads_the_other(
    tmp_path: Path, cfg: TLoRAConfig, suffixes: tuple[str, ...]
) -> None:
    """Single blocks are left out: their Linear has 3072 columns in that converter, whatever the model; the next test has them."""
    _, file = exported(tmp_path, "kohya", cfg, suffixes)
    layers, _ = read_layers(tmp_path / "adapter")
    tensors = {key: tensor for key, tensor in load_file(file).items() if "single_blocks" not in key}
    converted = _convert_kohya_flux_lora_to_diffusers(tensors)
    adapted = {name: layer.factors() for name, layer in layers.items() if not name.startswith("single")}
    for name, (up, down) in adapted.items():
        product = converted.pop(f"transformer.{name}.lora_B.weight") @ converted.pop(f"transformer.{name}.lora_A.weight")
        torch.testing.assert_close(product, up @ down, rtol=1e-4, atol=1e-5)
    assert not any(tensor.any() for key, tensor in converted.items() if "lora_B" in key)  # parts that were not adapted


@pytest.mark.parametrize("parts", [("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"), ("attn.to_q", "attn.to_v")])
def test_so_does_it_for_the_single_blocks_of_flux_1(parts: tuple[str, ...]) -> None:
    rows, source = {"proj_mlp": 12288}, torch.Generator().manual_seed(0)
    factors = {
        f"single_transformer_blocks.7.{part}": (
            torch.randn(rows.get(part, 3072), 4, generator=source), torch.randn(4, 6, generator=source),
        )
        for part in parts
    }  # fmt: skip
    converted = _convert_kohya_flux_lora_to_diffusers(kohya_tensors(factors))
    for name, (up, down) in factors.items():
        product = converted[f"transformer.{name}.lora_B.weight"] @ converted[f"transformer.{name}.lora_A.weight"]
        torch.testing.assert_close(product, up @ down)


def test_load_lora_weights_of_the_kohya_file_predicts_what_we_predict(tmp_path: Path) -> None:
    expected, file = exported(tmp_path, "kohya", CFG, ("add_q_proj", "add_k_proj", "add_v_proj", "to_out.0", "ff.net.2"))
    torch.testing.assert_close(predict(pipeline_with(file).transformer, tiny_inputs(2)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dialect", ["diffusers", "kohya"])
@pytest.mark.parametrize("cfg", [CFG, HALF, ORTHO], ids=["lora", "alpha is half the rank", "ortho_lora"])
def test_an_exported_file_comes_back_as_the_same_adapter(tmp_path: Path, dialect: str, cfg: TLoRAConfig) -> None:
    expected, file = exported(tmp_path, dialect, cfg)
    main(["import", str(file), "--out", str(tmp_path / "back"), "--trigger", "matbrk"])
    transformer = tiny_transformer()
    metadata = attach_adapter(transformer, tmp_path / "back")
    assert (metadata.trigger, metadata.config.enable_rank_masking, len(metadata.target_modules)) == ("matbrk", False, 40)
    torch.testing.assert_close(predict(transformer, tiny_inputs(2)), expected, rtol=1e-4, atol=1e-4)


def test_a_layer_without_a_name_is_an_error_and_not_left_out() -> None:
    with pytest.raises(CheckpointError, match=r"transformer_blocks\.0\.attn\.to_x has no name in kohya's format"):
        kohya_tensors({"transformer_blocks.0.attn.to_x": (torch.zeros(8, 1), torch.zeros(1, 8))})


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    _, adapter = saved(tmp_path / "adapter")
    with pytest.raises(SystemExit, match=r"tlora_weights\.safetensors: exists: choose another name"):
        main(["export", str(adapter), "--format", "kohya", "--out", str(adapter / WEIGHTS_FILE)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "kohya", "--max-bands", "3"], "--max-bands is for bands, --format is kohya"),
        (["--format", "bands", "--steps", "4", "--width", "64"], "bands are cut for one sampler: give --height"),
        (["--format", "bands", "--steps", "0", "--width", "64", "--height", "64"], "--steps must be at least 1, got 0"),
        (["--format", "bands", "--steps", "4", "--width", "64", "--height", "64"], "models/tiny: no base model there"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path: Path, options: list[str], message: str) -> None:
    _, adapter = saved(tmp_path / "adapter")
    with pytest.raises(SystemExit, match=message):
        main(["export", str(adapter), "--out", str(tmp_path / "out"), *options])
    assert not (tmp_path / "out").exists()


NODE_KEY = re.compile(
    r"^(?:unet\.)?(?P<base>.+?\.to_(?:q|k|v|out(?:\.0)?|q_proj|k_proj|v_proj))_lora\.(?P<part>down|up)\.weight$"
)


def test_the_authors_layout_has_the_keys_that_comfyui_t_lora_looks_for_and_comes_back_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The node takes a layer's name from before `_lora`, less `.processor`; its mask covers as many ranks as the file has."""
    suffixes = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj")
    cfg = TLoRAConfig(rank=4, alpha=2.0, min_rank=1)
    transformer, adapter = saved(tmp_path / "adapter", cfg, suffixes)
    main(["export", str(adapter), "--format", "authors", "--out", str(tmp_path / "out.safetensors")])
    assert "mask by its reader: min_rank 1, alpha 1, max_timestep 1000" in capsys.readouterr().out
    tensors = load_file(tmp_path / "out.safetensors")
    matches = [NODE_KEY.match(key) for key in tensors]
    assert all(matches)
    names = {match["base"].replace(".processor.", ".") for match in matches if match}
    renamed = {"to_out": "to_out.0", "to_q_proj": "add_q_proj", "to_k_proj": "add_k_proj", "to_v_proj": "add_v_proj"}
    assert {
        f"{name.rpartition('.')[0]}.{renamed.get(name.rpartition('.')[2], name.rpartition('.')[2])}" for name in names
    } == set(adapter_layers(transformer))
    assert {tensor.shape[0] for key, tensor in tensors.items() if key.endswith("down.weight")} == {4}
    main(["import", str(tmp_path / "out.safetensors"), "--out", str(tmp_path / "back"), "--min-rank", "1"])
    back = tiny_transformer()
    attach_adapter(back, tmp_path / "back")
    for mask in MASKS:
        given = {"sigma_mask": mask[None]}
        torch.testing.assert_close(predict(back, tiny_inputs(1), given), predict(transformer, tiny_inputs(1), given))


@pytest.mark.parametrize(
    ("cfg", "suffixes", "message"),
    [(CFG, ("to_q", "proj_out"), "proj_out has no name in the authors' format"), (ORTHO, ("to_q",), "an ortho_lora has no form")],
)
def test_what_the_authors_layout_cannot_hold_is_refused(
    tmp_path: Path, cfg: TLoRAConfig, suffixes: tuple[str, ...], message: str
) -> None:
    _, adapter = saved(tmp_path / "adapter", cfg, suffixes)
    with pytest.raises(SystemExit, match=message):
        main(["export", str(adapter), "--format", "authors", "--out", str(tmp_path / "out.safetensors")])
    assert not (tmp_path / "out.safetensors").exists()
