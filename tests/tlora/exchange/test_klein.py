"""Adapters of FLUX.2 klein go to other tools and come from them as stock diffusers and PEFT read the same files."""

import gc
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from diffusers.loaders.lora_conversion_utils import (
    _convert_kohya_flux2_lora_to_diffusers,
    _convert_non_diffusers_flux2_lora_to_diffusers,
)
from lycoris import LycorisNetwork, create_lycoris
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.tiny_flux import tiny_pipeline_folder, tiny_transformer
from tests.tiny_klein import (
    WIDTH,
    predict_klein,
    tiny_klein_folder,
    tiny_klein_inputs,
    tiny_klein_pipeline,
    tiny_klein_transformer,
)
from tests.tlora.adapted import CFG, ORTHO
from tests.tlora.exchange.test_rank_bands import player_of
from tests.tlora.test_klein import as_patches, embedded
from tlora.checkpoint import attach_adapter, save_tlora_weights
from tlora.cli import main
from tlora.errors import CheckpointError
from tlora.exchange.layers import read_layers
from tlora.exchange.rank_bands import Sampler, write_bands
from tlora.flux.families import FLUX_2_KLEIN
from tlora.flux.model import load_scheduler, load_vae
from tlora.flux.spec import ModelSpec
from tlora.inject import inject_tlora_into_transformer, tlora_parameters
from tlora.metadata.adapter import WEIGHTS_FILE, AdapterMetadata, read_metadata
from tlora.metadata.config import TLoRAConfig
from tlora.sampling import Painter, SampleSettings, draw_pictures, initial_noise

EVERY_SUFFIX = tuple(dict.fromkeys(row.name for each in FLUX_2_KLEIN.blocks for row in each.linears))
FULL = {"sigma_mask": torch.ones(1, 4)}
SINGLE = "single_transformer_blocks.0.attn.to_qkv_mlp_proj"
BLOCKS = 2
ALL_LAYERS = 12 * BLOCKS + 2 * BLOCKS


def saved(folder: Path, cfg: TLoRAConfig = CFG, suffixes: tuple[str, ...] = EVERY_SUFFIX) -> nn.Module:
    """Return a tiny klein whose adapter has moved, and save that adapter."""
    transformer = tiny_klein_transformer()
    inject_tlora_into_transformer(transformer, suffixes, cfg, leave_blocks_out=True)
    source = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in tlora_parameters(transformer):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=source))
    metadata = AdapterMetadata(cfg, suffixes, base="models/tiny", trigger="matbrk", family=FLUX_2_KLEIN.name)
    save_tlora_weights(transformer, folder / WEIGHTS_FILE, metadata)
    return transformer


def exported(folder: Path, dialect: str, cfg: TLoRAConfig = CFG) -> tuple[Tensor, Path]:
    """Return what we predict at full rank, and the exported file."""
    transformer, file = saved(folder / "adapter", cfg), folder / f"{dialect}.safetensors"
    main(["export", str(folder / "adapter"), "--format", dialect, "--out", str(file)])
    return predict_klein(transformer, tiny_klein_inputs(2), dict(FULL)), file


def drawn_by_diffusers(weights: dict[str, Tensor] | Path) -> Tensor:
    """Return what a stock pipeline's transformer predicts with a LoRA."""
    pipe = tiny_klein_pipeline()
    if isinstance(weights, Path):
        pipe.load_lora_weights(str(weights.parent), weight_name=weights.name)
    else:
        pipe.load_lora_weights(dict(weights))
    return predict_klein(pipe.transformer, tiny_klein_inputs(2))


def imported(folder: Path, file: Path, *more: str) -> Tensor:
    """Return what we predict with an imported file."""
    main(["import", str(file), "--out", str(folder / "ours"), *more])
    transformer = tiny_klein_transformer()
    attach_adapter(transformer, folder / "ours")
    return predict_klein(transformer, tiny_klein_inputs(2))


def assert_same(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, predict_klein(tiny_klein_transformer(), tiny_klein_inputs(2)), atol=1e-2)


@pytest.mark.parametrize("dialect", ["diffusers", "kohya"])
@pytest.mark.parametrize("cfg", [CFG, TLoRAConfig(rank=4, alpha=2.0, min_rank=1), ORTHO], ids=["lora", "half alpha", "ortho"])
def test_the_stock_pipeline_predicts_with_an_exported_file_what_we_predict_and_it_comes_back(
    tmp_path: Path, dialect: str, cfg: TLoRAConfig
) -> None:
    expected, file = exported(tmp_path, dialect, cfg)
    assert_same(drawn_by_diffusers(file), expected)
    assert_same(imported(tmp_path, file), expected)
    metadata = read_metadata(tmp_path / "ours" / WEIGHTS_FILE)
    assert (metadata.family, len(metadata.target_modules)) == ("FLUX.2 klein", ALL_LAYERS)


def test_the_names_are_those_of_comfyuis_key_map(tmp_path: Path) -> None:
    """Its map has lora_unet_<name> for each weight of BFL's model, and of diffusers' names the two of fused single blocks."""
    _, file = exported(tmp_path, "kohya")
    up = {key.removesuffix(".lora_up.weight"): tuple(t.shape) for key, t in load_file(file).items() if key.endswith("up.weight")}
    double = r"double_blocks_[01]_(img|txt)_(attn_qkv|attn_proj|mlp_0|mlp_2)"
    assert all(re.fullmatch(rf"lora_unet_({double}|single_blocks_[01]_linear[12])", key) for key in up)
    assert len(up) == 8 * BLOCKS + 2 * BLOCKS
    sizes = {
        "single_blocks_0_linear1": (9 * WIDTH, 4),
        "double_blocks_0_img_attn_qkv": (3 * WIDTH, 12),
        "single_blocks_0_linear2": (WIDTH, 4),
    }
    assert {key: up[f"lora_unet_{key}"] for key in sizes} == sizes
    _, other = exported(tmp_path / "other", "diffusers")
    assert {f"transformer.{SINGLE}.lora_A.weight", f"transformer.{SINGLE[:-15]}to_out.lora_B.weight"} <= load_file(other).keys()


@pytest.mark.parametrize("cfg", [CFG, ORTHO], ids=["lora", "ortho_lora"])
def test_bands_in_the_stock_pipeline_predict_what_our_mask_does_at_every_step(tmp_path: Path, cfg: TLoRAConfig) -> None:
    ours = saved(tmp_path / "adapter", cfg)
    layers, metadata = read_layers(tmp_path / "adapter")
    sampler = Sampler(16, 16, (1000.0, 950.0, 800.0, 500.0, 200.0))
    plan = write_bands(tmp_path / "bands", layers, metadata, sampler)
    pipe, player = tiny_klein_pipeline(), player_of(tmp_path / "bands")
    manifest = player.load(pipe, tmp_path / "bands")
    inputs, schedule = tiny_klein_inputs(1), cfg.schedule(1000.0)
    predictions = []
    for step, timestep in enumerate(sampler.timesteps):
        player.arm(pipe, manifest, step)
        predictions.append(predict_klein(pipe.transformer, inputs))
        mask = {"sigma_mask": schedule.mask(torch.tensor([timestep]))}
        torch.testing.assert_close(predictions[-1], predict_klein(ours, inputs, mask), rtol=1e-5, atol=1e-5)
    assert len(plan.bands) > 1
    assert not torch.allclose(predictions[0], predictions[-1], atol=1e-3)


def test_the_shipped_module_draws_our_masked_picture_with_guidance(tmp_path: Path) -> None:
    base = ModelSpec(str(tiny_klein_folder(tmp_path / "base")), dtype="float32", device="cpu")
    transformer = saved(tmp_path / "adapter")
    size = ["--steps", "4", "--width", "24", "--height", "16", "--base", base.path]
    main(["export", str(tmp_path / "adapter"), "--format", "bands", "--out", str(tmp_path / "bands"), *size])
    pipe, player = Flux2KleinPipeline.from_pretrained(base.path), player_of(tmp_path / "bands")
    pipe.set_progress_bar_config(disable=True)
    painter = Painter(transformer, load_vae(base), load_scheduler(base), empty_prompt=embedded(base, ""))
    settings = SampleSettings(width=24, height=16, num_inference_steps=4, guidance_scale=4.0)
    (ours,) = draw_pictures(painter, embedded(base, "a wall"), [3], settings)
    noise = as_patches(initial_noise(painter.vae, [3], settings))
    (theirs,) = player.draw(
        pipe, player.load(pipe, tmp_path / "bands"), prompt="a wall", guidance_scale=4.0, latents=noise
    ).images
    assert np.abs(np.asarray(ours, np.int16) - np.asarray(theirs, np.int16)).max() <= 1
    (full,) = draw_pictures(painter, embedded(base, "a wall"), [3], replace(settings, sigma_mask="full"))
    assert np.abs(np.asarray(ours, np.int16) - np.asarray(full, np.int16)).max() > 4


def test_bands_for_a_base_of_the_other_family_are_one_line(tmp_path: Path) -> None:
    saved(tmp_path / "adapter", CFG, ("to_q",))
    base = str(tiny_pipeline_folder(tmp_path / "one"))
    size = ["--steps", "4", "--width", "16", "--height", "16", "--base", base]
    with pytest.raises(SystemExit, match=f"trained on a base of FLUX.2 klein, and {re.escape(base)} is of FLUX.1"):
        main(["export", str(tmp_path / "adapter"), "--format", "bands", "--out", str(tmp_path / "bands"), *size])
    assert not (tmp_path / "bands").exists()


def test_the_workflow_of_bands_draws_klein_with_guidance_and_its_own_shift(tmp_path: Path) -> None:
    saved(tmp_path / "adapter", CFG, ("to_out",))
    layers, metadata = read_layers(tmp_path / "adapter")
    write_bands(tmp_path / "bands", layers, metadata, Sampler(64, 32, (1000.0, 900.0)))
    nodes = json.loads((tmp_path / "bands" / "comfyui_workflow.json").read_text())
    inputs = {node["_meta"]["title"]: node["inputs"] for node in nodes.values()}
    classes = {node["_meta"]["title"]: node["class_type"] for node in nodes.values()}
    assert (classes["latent"], inputs["clip"]["type"], inputs["sampler"]["cfg"]) == ("EmptyFlux2LatentImage", "flux2", 4.0)
    assert inputs["model"]["max_shift"] == inputs["model"]["base_shift"] == pytest.approx(2.197225)  # 0.5 became 0.9
    assert inputs["banded"]["hooks"] == inputs["nothing"]["hooks"]
    assert inputs["empty"]["text"] == ""
    for node in nodes.values():  # every link leads to a node
        assert all(value[0] in nodes for value in node["inputs"].values() if isinstance(value, list))


def by_pipeline(transformer: nn.Module, folder: Path) -> Path:
    """Save as diffusers' training script and SimpleTuner do."""
    state, settings = get_peft_model_state_dict(transformer), transformer.peft_config["default"].to_dict()
    Flux2KleinPipeline.save_lora_weights(folder, state, transformer_lora_adapter_metadata=settings)
    return folder / "pytorch_lora_weights.safetensors"


def by_transformer(transformer: nn.Module, folder: Path) -> Path:
    transformer.save_lora_adapter(folder)
    return folder / "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize("save", [by_pipeline, by_transformer])
def test_what_diffusers_and_simpletuner_save_comes_in_at_its_strength(
    tmp_path: Path, save: Callable[[nn.Module, Path], Path]
) -> None:
    """SimpleTuner saves through its pipeline's `save_lora_weights`, with these targets by default."""
    theirs = tiny_klein_transformer()
    targets = ["attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.to_qkv_mlp_proj"]
    theirs.add_adapter(LoraConfig(r=4, lora_alpha=2, target_modules=targets, init_lora_weights=False))
    assert_same(imported(tmp_path, save(theirs, tmp_path / "theirs")), predict_klein(theirs, tiny_klein_inputs(2)))


def ai_toolkit(rank: int = 3) -> dict[str, Tensor]:
    """Return a LoRA of every Linear of the blocks as ai-toolkit saves one: BFL's names, PEFT's ends, no alpha."""
    source, tensors = torch.Generator().manual_seed(2), {}
    sizes = {"attn.qkv": (1, 3), "attn.proj": (1, 1), "mlp.0": (1, 6), "mlp.2": (3, 1)}
    names = {f"double_blocks.{i}.{side}_{name}": size for i in (0, 1) for side in ("img", "txt") for name, size in sizes.items()}
    names |= {f"single_blocks.{i}.{name}": size for i in (0, 1) for name, size in (("linear1", (1, 9)), ("linear2", (4, 1)))}
    for name, (inside, outside) in names.items():
        tensors[f"diffusion_model.{name}.lora_A.weight"] = torch.randn(rank, inside * WIDTH, generator=source) / 3
        tensors[f"diffusion_model.{name}.lora_B.weight"] = torch.randn(outside * WIDTH, rank, generator=source) / 3
    return tensors


def test_what_ai_toolkit_saves_comes_in_as_diffusers_loads_it(tmp_path: Path) -> None:
    tensors = ai_toolkit()
    assert len(_convert_non_diffusers_flux2_lora_to_diffusers(dict(tensors))) == 2 * ALL_LAYERS
    save_file({key: tensor.half() for key, tensor in tensors.items()}, tmp_path / "lora.safetensors")
    assert_same(
        imported(tmp_path, tmp_path / "lora.safetensors"), drawn_by_diffusers({k: t.half().float() for k, t in tensors.items()})
    )
    assert len(read_metadata(tmp_path / "ours" / WEIGHTS_FILE).target_modules) == ALL_LAYERS


def test_a_fused_linear_of_kohya_keeps_its_alpha(tmp_path: Path) -> None:
    ends = {"lora_A": "lora_down", "lora_B": "lora_up"}
    tensors: dict[str, Tensor] = {}
    for key, tensor in ai_toolkit().items():
        name, end, _ = key.removeprefix("diffusion_model.").rsplit(".", 2)
        flat = f"lora_unet_{name.replace('.', '_')}"
        tensors |= {f"{flat}.{ends[end]}.weight": tensor, f"{flat}.alpha": torch.tensor(1.5)}
    save_file(tensors, tmp_path / "lora.safetensors")
    assert len(_convert_kohya_flux2_lora_to_diffusers(dict(tensors))) == 2 * ALL_LAYERS
    assert_same(imported(tmp_path, tmp_path / "lora.safetensors"), drawn_by_diffusers(tensors))


def test_what_simpletuners_lycoris_saves_comes_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SimpleTuner's LyCORIS: the transformer's own names, flattened, behind `lycoris_`."""
    monkeypatch.setattr(gc, "collect", lambda: 0)  # LyCORIS collects after every layer, two seconds each time
    theirs = tiny_klein_transformer()
    LycorisNetwork.apply_preset({"target_module": ["Flux2TransformerBlock", "Flux2SingleTransformerBlock"]})
    network = create_lycoris(theirs, 1.0, linear_dim=2, linear_alpha=1, algo="lora")
    network.apply_to()
    source = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=source))
    save_file({key: tensor.contiguous() for key, tensor in network.state_dict().items()}, tmp_path / "lora.safetensors")
    assert any(key.startswith("lycoris_single_transformer_blocks_0_attn_to_qkv_mlp_proj.") for key in network.state_dict())
    assert_same(imported(tmp_path, tmp_path / "lora.safetensors"), predict_klein(theirs, tiny_klein_inputs(2)))


def test_an_adapter_of_one_family_on_the_other_is_one_line(tmp_path: Path) -> None:
    saved(tmp_path / "klein", CFG, ("to_q", "to_k", "to_v"))  # layers that both have
    with pytest.raises(CheckpointError, match=r"trained on a base of FLUX.2 klein, and this one is of FLUX.1"):
        attach_adapter(tiny_transformer(), tmp_path / "klein")
    one = tiny_transformer()
    inject_tlora_into_transformer(one, ("to_q",), CFG)
    save_tlora_weights(one, tmp_path / "one" / WEIGHTS_FILE, AdapterMetadata(CFG, ("to_q",)))
    with pytest.raises(CheckpointError, match=r"trained on a base of FLUX.1, and this one is of FLUX.2 klein"):
        attach_adapter(tiny_klein_transformer(), tmp_path / "one")


def test_a_lora_of_one_family_with_a_base_of_the_other_is_one_line(tmp_path: Path) -> None:
    save_file(ai_toolkit(), tmp_path / "lora.safetensors")
    base = str(tiny_pipeline_folder(tmp_path / "one"))
    with pytest.raises(SystemExit, match=f"lora.safetensors: a LoRA of FLUX.2 klein, and {re.escape(base)} is FLUX.1"):
        main(["import", str(tmp_path / "lora.safetensors"), "--out", str(tmp_path / "ours"), "--base", base])
    assert not (tmp_path / "ours").exists()


def test_layers_of_two_families_in_one_file_are_refused(tmp_path: Path) -> None:
    stranger = "diffusion_model.single_transformer_blocks.0.proj_mlp"
    more = {f"{stranger}.lora_A.weight": torch.zeros(3, WIDTH), f"{stranger}.lora_B.weight": torch.ones(4 * WIDTH, 3)}
    save_file(ai_toolkit() | more, tmp_path / "lora.safetensors")
    with pytest.raises(SystemExit, match=f"unknown layer '{stranger}': FLUX.2 klein has no Linear of that name"):
        main(["import", str(tmp_path / "lora.safetensors"), "--out", str(tmp_path / "ours")])


def test_what_only_the_base_can_tell_apart_is_of_the_base(tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    save_file({key: tensor for key, tensor in ai_toolkit().items() if "attn" in key}, file)  # both families have these
    main(["import", str(file), "--out", str(tmp_path / "ours"), "--base", str(tiny_klein_folder(tmp_path / "base"))])
    assert read_metadata(tmp_path / "ours" / WEIGHTS_FILE).family == "FLUX.2 klein"


def test_the_authors_format_is_of_flux_1_alone(tmp_path: Path) -> None:
    saved(tmp_path / "adapter", CFG, ("to_q",))
    with pytest.raises(SystemExit, match=r"the authors' format is of FLUX.1's layers, and this adapter is of FLUX.2 klein"):
        main(["export", str(tmp_path / "adapter"), "--format", "authors", "--out", str(tmp_path / "out.safetensors")])


def test_inspect_says_the_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "adapter", CFG, ("to_out",))
    save_file(ai_toolkit(), tmp_path / "lora.safetensors")
    for file in (tmp_path / "adapter", tmp_path / "lora.safetensors"):
        main(["inspect", str(file)])
        assert re.search(r"^family +FLUX.2 klein$", capsys.readouterr().out, re.MULTILINE)
