"""Every dialect comes in at the strength at which stock diffusers and PEFT apply the same file, or is refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.tiny_flux import WIDTH, predict, tiny_inputs, tiny_pipeline, tiny_transformer
from tests.tlora.adapted import EVERY_SUFFIX
from tlora.checkpoint import attach_adapter
from tlora.cli import main
from tlora.errors import CheckpointError
from tlora.exchange.read_lora import read_foreign

LORA = "pytorch_lora_weights.safetensors"
Q = "transformer_blocks.0.attn.to_q"


def random(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def adapted_by_peft(**settings: Any) -> nn.Module:
    """Return a tiny FLUX with PEFT's own layers, at random values."""
    transformer = tiny_transformer()
    given = {"r": 4, "lora_alpha": 2, "target_modules": ["to_q", "to_k", "proj_mlp"], "init_lora_weights": False} | settings
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        transformer.add_adapter(LoraConfig(**given))
    return transformer


def saved_by_pipeline(transformer: nn.Module, folder: Path) -> Path:
    FluxPipeline.save_lora_weights(
        folder,
        get_peft_model_state_dict(transformer),
        transformer_lora_adapter_metadata=transformer.peft_config["default"].to_dict(),
    )
    return folder / LORA


def saved_by_transformer(transformer: nn.Module, folder: Path) -> Path:
    transformer.save_lora_adapter(folder)
    return folder / LORA


def saved_by_peft(transformer: nn.Module, folder: Path) -> Path:
    """Save what PEFT's own `save_pretrained` does: weights named after its wrapper, settings beside them."""
    wrapped = get_peft_model(tiny_transformer(), transformer.peft_config["default"])
    missing = wrapped.base_model.model.load_state_dict(transformer.state_dict(), strict=True)
    assert not missing.missing_keys
    wrapped.save_pretrained(folder)
    return folder / "adapter_model.safetensors"


def imported(folder: Path, file: Path, *more: str) -> nn.Module:
    main(["import", str(file), "--out", str(folder / "ours"), *more])
    transformer = tiny_transformer()
    attach_adapter(transformer, folder / "ours")
    return transformer


def assert_draw_alike(one: nn.Module, other: nn.Module) -> None:
    inputs = tiny_inputs(2)
    expected = predict(other, inputs)
    torch.testing.assert_close(predict(one, inputs), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, predict(tiny_transformer(), inputs), atol=1e-2)


@pytest.mark.parametrize("save", [saved_by_pipeline, saved_by_transformer, saved_by_peft])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"alpha_pattern": {"to_q": 8}},
        {"alpha_pattern": {"^transformer_blocks.0.attn.to_q": 8, "attn.to_k": 1}, "rank_pattern": {r"single_.*\.to_q": 2}},
        {"rank_pattern": {"to_k": 8}, "use_rslora": True},
        {"init_lora_weights": "orthogonal"},
    ],
    ids=["plain", "rslora", "alpha_pattern", "patterns", "rslora and ranks", "orthogonal"],
)
def test_what_peft_scales_comes_in_at_that_scale(
    tmp_path: Path, settings: dict[str, Any], save: Callable[[nn.Module, Path], Path]
) -> None:
    theirs = adapted_by_peft(**settings)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.add_(random(*parameter.shape, seed=len(name)))
    assert_draw_alike(imported(tmp_path, save(theirs, tmp_path / "theirs")), theirs)


def test_mixed_ranks_saved_again_by_diffusers_keep_their_strength(tmp_path: Path) -> None:
    tensors = {}
    for seed, (name, rank) in enumerate({"to_q": 2, "to_k": 4, "to_v": 4}.items()):
        tensors[f"transformer.transformer_blocks.0.attn.{name}.lora_A.weight"] = random(rank, WIDTH, seed=2 * seed)
        tensors[f"transformer.transformer_blocks.0.attn.{name}.lora_B.weight"] = 5 * random(WIDTH, rank, seed=2 * seed + 1)
    pipe = tiny_pipeline()
    pipe.load_lora_weights(dict(tensors), adapter_name="default")
    file = saved_by_pipeline(pipe.transformer, tmp_path / "theirs")
    assert_draw_alike(imported(tmp_path, file), pipe.transformer)


def rank_two(
    name: str, rows: int = WIDTH, inside: int = WIDTH, ends: tuple[str, str] = ("lora_down", "lora_up")
) -> dict[str, Tensor]:
    """Return the factors of one layer, the same for the same sizes."""
    return {f"{name}.{ends[0]}.weight": random(2, WIDTH), f"{name}.{ends[1]}.weight": 5 * random(rows, 2, seed=1)}


AB = ("lora_A", "lora_B")
SAME_LAYER = {  # one LoRA of the first block's query, key and value, in the names of each tool
    "kohya": "lora_unet_double_blocks_0_img_attn_qkv",
    "ComfyUI": "diffusion_model.double_blocks.0.img_attn.qkv",
    "PEFT of BFL's model": "base_model.model.double_blocks.0.img_attn.qkv",
    "BFL": "double_blocks.0.img_attn.qkv",
    "XLabs": "double_blocks.0.processor.qkv_lora1",
}


@pytest.mark.parametrize("tool", SAME_LAYER)
def test_a_fused_layer_comes_in_as_diffusers_loads_it(tmp_path: Path, tool: str) -> None:
    ends = {"XLabs": ("down", "up"), "PEFT of BFL's model": AB}.get(tool, ("lora_down", "lora_up"))
    tensors = rank_two(SAME_LAYER[tool], 3 * WIDTH, ends=ends)
    if ends[0] == "lora_down":
        tensors[f"{SAME_LAYER[tool]}.alpha"] = torch.tensor(1.0)
    save_file(tensors, tmp_path / "lora.safetensors")
    ours = imported(tmp_path, tmp_path / "lora.safetensors")
    if tool == "BFL":  # diffusers reads it with a prefix only
        tensors = {f"diffusion_model.{key}": tensor for key, tensor in tensors.items()}
    if tool == "PEFT of BFL's model":  # diffusers' converter takes whole files of FLUX.1's size only
        tensors = {key.replace("base_model.model.", "diffusion_model."): tensor for key, tensor in tensors.items()}
        tensors = {key.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): t for key, t in tensors.items()}
    pipe = tiny_pipeline()
    pipe.load_lora_weights(tensors)
    assert_draw_alike(ours, pipe.transformer)


SAME_QUERY = {  # one LoRA of the first block's query
    "diffusers": ("transformer.transformer_blocks.0.attn.to_q", AB),
    "a transformer alone": ("transformer_blocks.0.attn.to_q", AB),
    "PEFT": ("base_model.model.transformer_blocks.0.attn.to_q", AB),
    "PEFT in a pipeline": ("base_model.model.transformer.transformer_blocks.0.attn.to_q", ("lora_A.default", "lora_B.default")),
    "older diffusers": ("transformer.transformer_blocks.0.attn.to_q", ("lora.down", "lora.up")),
    "kohya's names for diffusers' modules": ("lora_unet_transformer_blocks_0_attn_to_q", ("lora_down", "lora_up")),
    "OneTrainer, older": ("lora_transformer_transformer_blocks_0_attn_to_q", ("lora_down", "lora_up")),
    "OneTrainer": ("transformer.double_blocks.0.img_attn.qkv.0", ("lora_down", "lora_up")),
    "SimpleTuner": ("lycoris_transformer_blocks_0_attn_to_q", ("lora_down", "lora_up")),
    "ComfyUI": ("diffusion_model.transformer_blocks.0.attn.to_q", AB),
}


@pytest.mark.parametrize("tool", SAME_QUERY)
def test_a_layer_by_any_name_comes_in_as_the_same(tmp_path: Path, tool: str) -> None:
    name, ends = SAME_QUERY[tool]
    tensors = rank_two(name, ends=ends)
    if ends == ("lora_down", "lora_up"):
        tensors[f"{name}.alpha"] = torch.tensor(2.0)
    save_file(tensors, tmp_path / "lora.safetensors")
    pipe = tiny_pipeline()
    pipe.load_lora_weights(rank_two(f"transformer.{Q}", ends=AB))
    assert_draw_alike(imported(tmp_path, tmp_path / "lora.safetensors"), pipe.transformer)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
def test_narrow_types_are_converted(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {key: tensor.to(dtype) for key, tensor in rank_two(f"transformer.{Q}", ends=AB).items()}
    save_file(tensors, tmp_path / "lora.safetensors")
    pipe = tiny_pipeline()
    pipe.load_lora_weights({key: tensor.float() for key, tensor in tensors.items()})
    assert_draw_alike(imported(tmp_path, tmp_path / "lora.safetensors"), pipe.transformer)


def header(**settings: Any) -> dict[str, str]:
    return {"lora_adapter_metadata": json.dumps({f"transformer.{name}": value for name, value in settings.items()})}


REFUSED_SETTINGS = {
    "init_lora_weights 'pissa_niter_4' changes the base": {"init_lora_weights": "pissa_niter_4"},
    "init_lora_weights 'olora' changes the base": {"init_lora_weights": "olora"},
    "use_dora True: it changes what the layers compute": {"use_dora": True},
    "use_qalora True: it changes what the layers compute": {"use_qalora": True},
    "some_future_scale 3: it changes what the layers compute": {"some_future_scale": 3},
    "bias 'lora_only': it changes the base's biases": {"bias": "lora_only"},
    "peft_type 'LOHA': no LoRA": {"peft_type": "LOHA"},
    "cannot be read: '[(]' is no pattern": {"r": 2, "alpha_pattern": {"(": 1}},
}


@pytest.mark.parametrize("message", REFUSED_SETTINGS)
def test_a_setting_that_a_t_lora_cannot_honour_refuses_the_file(tmp_path: Path, message: str) -> None:
    file = tmp_path / "lora.safetensors"
    save_file(rank_two(f"transformer.{Q}", ends=AB), file, header(**{"r": 2, "lora_alpha": 2} | REFUSED_SETTINGS[message]))
    with pytest.raises(SystemExit, match=re.escape(message).replace(r"\[\(\]", r"\(")):
        main(["import", str(file), "--out", str(tmp_path / "ours")])
    assert not (tmp_path / "ours").exists()


def test_two_alphas_that_differ_are_not_chosen_between(tmp_path: Path) -> None:
    tensors = rank_two(f"transformer.{Q}", ends=AB) | {f"transformer.{Q}.alpha": torch.tensor(1.0)}
    save_file(tensors, tmp_path / "lora.safetensors", header(r=2, lora_alpha=2))
    with pytest.raises(SystemExit, match=r"its alpha says scale 0\.5, PEFT's settings 1"):
        main(["import", str(tmp_path / "lora.safetensors"), "--out", str(tmp_path / "ours")])


def outside_file(file: Path) -> None:
    """Write a LoRA of which one layer lies outside the blocks, with four fifths of the update, and one in a text encoder."""
    outside = {
        key: 2 * tensor if "lora_B" in key else tensor for key, tensor in rank_two("transformer.x_embedder", ends=AB).items()
    }
    encoder = {"text_encoder.text_model.x.q_proj.lora_A.weight": random(1, 2)}
    idle = {key: 0 * tensor for key, tensor in rank_two("transformer.context_embedder", ends=AB).items()}
    save_file(rank_two(f"transformer.{Q}", ends=AB) | outside | encoder | idle, file)


def test_what_lies_outside_the_blocks_is_left_out_only_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outside_file(tmp_path / "lora.safetensors")
    said = (
        "layer 'transformer.x_embedder' outside FLUX's blocks, 80.0% of the update by its square;"
        " layer 'text_encoder.text_model.x.q_proj' of a text encoder"
    )
    with pytest.raises(SystemExit, match=re.escape(f"holds {said}, where no rank mask arrives: --skip-outside leaves it out")):
        main(["import", str(tmp_path / "lora.safetensors"), "--out", str(tmp_path / "ours")])
    assert not (tmp_path / "ours").exists()
    ours = imported(tmp_path, tmp_path / "lora.safetensors", "--skip-outside")
    assert f"left out: {said}" in capsys.readouterr().out
    pipe = tiny_pipeline()
    pipe.load_lora_weights(rank_two(f"transformer.{Q}", ends=AB))
    assert_draw_alike(ours, pipe.transformer)
    main(["inspect", str(tmp_path / "lora.safetensors")])
    assert f"{said}: 'tlora import --skip-outside' leaves it out" in capsys.readouterr().out


def test_every_linear_of_the_blocks_has_one_row(tmp_path: Path) -> None:
    """The table of Linears is that of diffusers' own blocks."""
    transformer = tiny_transformer(blocks=1)
    transformer.add_adapter(LoraConfig(r=1, target_modules=list(EVERY_SUFFIX), init_lora_weights=False))
    transformer.save_lora_adapter(tmp_path / "theirs")
    foreign = read_foreign(tmp_path / "theirs" / LORA)
    inside = {
        key.removesuffix(".lora_A.weight") for key in load_file(tmp_path / "theirs" / LORA) if key.endswith("lora_A.weight")
    }
    assert inside == foreign.layers.keys() | foreign.outside.keys()
    assert set(foreign.outside) == {"proj_out"}
    for name, linear in tiny_transformer(blocks=1).named_modules():
        assert not isinstance(linear, nn.Linear) or name.split(".")[0].endswith("_blocks") is (name in foreign.layers)


def test_drawing_with_another_tools_file_says_how_it_is_imported(tmp_path: Path) -> None:
    file = tmp_path / LORA
    save_file(rank_two(f"transformer.{Q}", ends=AB), file)
    for path in (file, tmp_path):
        with pytest.raises(CheckpointError, match=re.escape(f"'tlora import {file} --out FOLDER' makes an adapter of it")):
            attach_adapter(tiny_transformer(), path)
