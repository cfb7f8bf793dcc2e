"""Rank bands in stock diffusers and PEFT, driven by the module shipped beside them, draw what our masked sampling draws."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from safetensors import safe_open
from torch import Tensor

from tests.tiny_flux import POOLED_WIDTH, TEXT_WIDTH, tiny_pipeline, tiny_pipeline_folder
from tests.tlora.adapted import CFG, ORTHO, saved
from tlora.checkpoint import save_tlora_weights
from tlora.cli import main
from tlora.errors import SettingsError
from tlora.exchange.comfy_workflow import comfy_workflow
from tlora.exchange.layers import read_layers
from tlora.exchange.rank_bands import Sampler, plan_bands, rank_energy, write_bands
from tlora.flux.latents import pack
from tlora.flux.model import load_scheduler, load_transformer, load_vae
from tlora.flux.spec import ModelSpec
from tlora.inject import inject_tlora_into_transformer, tlora_parameters
from tlora.metadata.adapter import AdapterMetadata
from tlora.metadata.config import TLoRAConfig
from tlora.sampling import Painter, SampleSettings, denoise, initial_noise

POCKET = Path(__file__).parents[3] / "models" / "pocket-flux"
WIDE = TLoRAConfig(rank=12, alpha=12.0, min_rank=2)
TIMESTEPS = (1000.0, 800.0, 600.0, 400.0, 200.0)


def player_of(folder: Path) -> ModuleType:
    """Import the module that was written beside the bands."""
    spec = importlib.util.spec_from_file_location("draw_bands", folder / "draw_bands.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drawn_with_bands(pipeline: FluxPipeline, folder: Path, embeddings: tuple[Tensor, Tensor], noise: Tensor) -> Tensor:
    """Return the packed latents that the shipped module draws."""
    pipeline.set_progress_bar_config(disable=True)
    player = player_of(folder)
    manifest = player.load(pipeline, folder)
    prompt = {"prompt_embeds": embeddings[0], "pooled_prompt_embeds": embeddings[1]}
    return player.draw(pipeline, manifest, **prompt, latents=pack(noise), output_type="latent").images


def drawn_with_masks(painter: Painter, settings: SampleSettings, embeddings: tuple[Tensor, Tensor], noise: Tensor) -> Tensor:
    return pack(list(denoise(painter, noise, embeddings, settings))[-1].latents)


def embeddings_of(text: int, pooled: int) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    return torch.randn(1, 5, text, generator=source), torch.randn(1, pooled, generator=source)


@pytest.mark.parametrize("cfg", [CFG, ORTHO], ids=["lora", "ortho_lora"])
def test_the_shipped_module_draws_our_masked_picture(tmp_path: Path, cfg: TLoRAConfig) -> None:
    base = tiny_pipeline_folder(tmp_path / "base")
    transformer, adapter = saved(tmp_path / "adapter", cfg)
    size = ["--steps", "5", "--width", "16", "--height", "24"]
    main(["export", str(adapter), "--format", "bands", "--out", str(tmp_path / "out"), "--base", str(base), *size])
    pipeline, embeddings = tiny_pipeline(), embeddings_of(TEXT_WIDTH, POOLED_WIDTH)
    settings = SampleSettings(width=16, height=24, num_inference_steps=5)
    noise = initial_noise(pipeline.vae, [3], settings)
    expected = drawn_with_masks(Painter(transformer, pipeline.vae, pipeline.scheduler), settings, embeddings, noise)
    got = drawn_with_bands(pipeline, tmp_path / "out", embeddings, noise)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)
    full = drawn_with_masks(
        Painter(transformer, pipeline.vae, pipeline.scheduler),
        SampleSettings(width=16, height=24, num_inference_steps=5, sigma_mask="full"),
        embeddings,
        noise,
    )
    assert not torch.allclose(got, full, rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_so_it_does_on_the_pocket_and_the_whole_file_draws_our_full_rank(tmp_path: Path) -> None:
    spec = ModelSpec(str(POCKET), dtype="float32", device="cpu")
    transformer, vae, scheduler = load_transformer(spec).eval(), load_vae(spec), load_scheduler(spec)
    cfg = TLoRAConfig(rank=16, alpha=16.0, min_rank=1)
    inject_tlora_into_transformer(transformer, ["to_q", "to_k", "to_v", "to_out.0"], cfg)
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in tlora_parameters(transformer):
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=source))
    save_tlora_weights(transformer, tmp_path / "adapter.safetensors", AdapterMetadata(cfg, ("to_q", "to_k", "to_v", "to_out.0")))
    size = ["--steps", "8", "--width", "64", "--height", "64", "--base", spec.path]
    main(["export", str(tmp_path / "adapter.safetensors"), "--format", "bands", "--out", str(tmp_path / "out"), *size])
    settings = SampleSettings(width=64, height=64, num_inference_steps=8)
    embeddings = embeddings_of(transformer.config.joint_attention_dim, transformer.config.pooled_projection_dim)
    noise = initial_noise(vae, [3], settings)
    painter = Painter(transformer, vae, scheduler)
    expected = drawn_with_masks(painter, settings, embeddings, noise)
    full = drawn_with_masks(painter, SampleSettings(64, 64, 8, sigma_mask="full"), embeddings, noise)
    pipeline = FluxPipeline(load_scheduler(spec), vae, None, None, None, None, load_transformer(spec))
    got = drawn_with_bands(pipeline, tmp_path / "out", embeddings, noise)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)
    assert (got - full).abs().max() > 20 * (got - expected).abs().max()
    main(["export", str(tmp_path / "adapter.safetensors"), "--format", "diffusers", "--out", str(tmp_path / "full.safetensors")])
    whole = FluxPipeline(load_scheduler(spec), vae, None, None, None, None, load_transformer(spec))
    whole.load_lora_weights(str(tmp_path), weight_name="full.safetensors")
    whole.set_progress_bar_config(disable=True)
    unmasked = whole(
        prompt_embeds=embeddings[0], pooled_prompt_embeds=embeddings[1], latents=pack(noise), output_type="latent",
        width=64, height=64, num_inference_steps=8,
    ).images  # fmt: skip
    torch.testing.assert_close(unmasked, full, rtol=1e-3, atol=1e-3)


def layers_of(cfg: TLoRAConfig, folder: Path) -> tuple[Any, AdapterMetadata]:
    saved(folder, cfg, ("to_q", "proj_out"))
    return read_layers(folder)


def test_there_is_a_band_for_every_rank_that_the_steps_visit(tmp_path: Path) -> None:
    layers, metadata = layers_of(WIDE, tmp_path)
    plan = plan_bands(layers, metadata, TIMESTEPS)
    assert plan.wanted == plan.given == (2, 4, 6, 8, 10)
    assert [(band.first_rank, band.last_rank, band.first_step) for band in plan.bands] == [
        (1, 2, 0), (3, 4, 1), (5, 6, 2), (7, 8, 3), (9, 10, 4),
    ]  # fmt: skip
    assert plan.errors == (0.0,) * 5


def test_the_manifest_says_what_is_drawn_and_which_ranks_never_are(tmp_path: Path) -> None:
    layers, metadata = layers_of(WIDE, tmp_path)
    write_bands(tmp_path / "out", layers, metadata, Sampler(64, 32, TIMESTEPS))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["format_version"] == 1
    assert manifest["sampler"] == {"width": 64, "height": 32, "timesteps": list(TIMESTEPS)}
    assert (manifest["active_ranks"], manifest["unused_ranks"], manifest["largest_error"]) == ([2, 4, 6, 8, 10], [11, 12], 0.0)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "manifest.json", "draw_bands.py", "comfyui_workflow.json", *(band["file"] for band in manifest["bands"]),
    }  # fmt: skip
    with safe_open(tmp_path / "out" / "ranks_003_004.safetensors", framework="pt") as opened:
        assert opened.metadata()["tlora_mask"] == "band: ranks 3 to 4, on from step 1 of 5"
        assert opened.get_tensor("transformer.transformer_blocks.0.attn.to_q.lora_A.weight").shape == (2, 32)


@pytest.mark.parametrize("cfg", [WIDE, TLoRAConfig(12, 6.0, 0.0, 2, trainer_type="ortho_lora")], ids=["lora", "ortho_lora"])
def test_fewer_bands_have_the_error_that_they_say(tmp_path: Path, cfg: TLoRAConfig) -> None:
    layers, metadata = layers_of(cfg, tmp_path)
    plan = plan_bands(layers, metadata, TIMESTEPS, max_bands=2)
    assert len(plan.bands) == 2
    assert set(plan.given) < {2, 4, 6, 8, 10}

    def update(layer: Any, rank: int) -> Tensor:
        up, down = layer.factors_under(torch.arange(layer.cfg.rank) < rank)
        return up @ down

    def distance(one: int, other: int) -> float:
        return sum(float((update(layer, one) - update(layer, other)).square().sum()) for layer in layers.values()) ** 0.5

    measured = [distance(w, g) / distance(w, 0) for w, g in zip(plan.wanted, plan.given, strict=True)]
    assert plan.errors == pytest.approx(measured, rel=1e-3, abs=1e-5)
    assert max(plan.errors) > 0.1
    total = sum(distance(w, g) ** 2 for w, g in zip(plan.wanted, plan.given, strict=True))
    for edges in ((a, b) for a in (2, 4, 6, 8, 10) for b in (2, 4, 6, 8, 10)):  # no other two edges are better
        assert total <= 1.0001 * sum(min(distance(w, edge) ** 2 for edge in edges) for w in plan.wanted)


def test_energy_is_the_squared_norm_of_a_band(tmp_path: Path) -> None:
    layers, _ = layers_of(WIDE, tmp_path)
    expected = sum(
        float((layer.factors()[0][:, 2:7] @ layer.factors()[1][2:7]).double().square().sum()) for layer in layers.values()
    )
    assert float(rank_energy(layers, 12)[2:7, 2:7].sum()) == pytest.approx(expected, rel=1e-4)


def test_a_pipeline_with_another_scheduler_is_refused_by_the_shipped_module(tmp_path: Path) -> None:
    layers, metadata = layers_of(CFG, tmp_path)
    write_bands(tmp_path / "out", layers, metadata, Sampler(16, 16, (1000.0, 900.0)))
    embeddings = embeddings_of(TEXT_WIDTH, POOLED_WIDTH)
    with pytest.raises(ValueError, match=r"step 1 is at timestep 500\.0, the bands were cut for 900\.0: export again"):
        drawn_with_bands(tiny_pipeline(), tmp_path / "out", embeddings, torch.zeros(1, 4, 8, 8))


@pytest.mark.parametrize(
    ("cfg", "timesteps", "most", "message"),
    [
        (TLoRAConfig(4, 4.0, 0.0, 1, enable_rank_masking=False), TIMESTEPS, None, "no rank mask"),
        (CFG, (500.0, 900.0), None, "timesteps rise somewhere"),
        (CFG, TIMESTEPS, 0, "must be at least 1, got 0"),
    ],
)
def test_bands_that_make_no_sense_are_refused(
    tmp_path: Path, cfg: TLoRAConfig, timesteps: tuple[float, ...], most: int | None, message: str
) -> None:
    layers, metadata = layers_of(cfg, tmp_path)
    with pytest.raises(SettingsError, match=message):
        plan_bands(layers, metadata, timesteps, most)


def test_the_workflow_switches_each_band_on_half_a_step_before_its_first() -> None:
    """ComfyUI switches at the first step whose sigma is at most that of start_percent; its simple scheduler walks evenly."""
    nodes = comfy_workflow([("a.safetensors", 0), ("b.safetensors", 1), ("c.safetensors", 3)], 64, 32, 4, "matbrk")
    by_class: dict[str, list[dict[str, Any]]] = {}
    for node in nodes.values():
        by_class.setdefault(node["class_type"], []).append(node["inputs"])
    assert [node["lora_name"] for node in by_class["CreateHookLoraModelOnly"]] == [
        "a.safetensors",
        "b.safetensors",
        "c.safetensors",
    ]
    keyframes = [(node["start_percent"], node["strength_mult"]) for node in by_class["CreateHookKeyframe"]]
    assert keyframes == [(0.0, 0.0), (0.125, 1.0), (0.0, 0.0), (0.625, 1.0)]  # the first band is on from the start
    assert len(by_class["CombineHooks2"]) == 2
    assert by_class["KSampler"][0]["steps"] == 4
    assert by_class["KSampler"][0]["scheduler"] == "simple"
    for node in nodes.values():  # every link leads to a node
        assert all(value[0] in nodes for value in node["inputs"].values() if isinstance(value, list))


def test_a_module_that_is_shipped_imports_nothing_of_ours(tmp_path: Path) -> None:
    layers, metadata = layers_of(CFG, tmp_path)
    write_bands(tmp_path / "out", layers, metadata, Sampler(16, 16, TIMESTEPS))
    assert "import tlora" not in (tmp_path / "out" / "draw_bands.py").read_text()
    assert "from tlora" not in (tmp_path / "out" / "draw_bands.py").read_text()


def test_loading_bands_says_nothing_and_a_wrapped_transformer_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    layers, metadata = read_layers(saved(tmp_path / "adapter", CFG, ("to_q",))[1])
    write_bands(tmp_path / "bands", layers, metadata, Sampler(16, 16, TIMESTEPS))
    pipeline, player = tiny_pipeline(), player_of(tmp_path / "bands")
    capfd.readouterr()
    caplog.clear()
    manifest = player.load(pipeline, tmp_path / "bands")
    assert (*capfd.readouterr(), caplog.text) == ("", "", "")
    pipeline.transformer = torch.compile(pipeline.transformer, backend="eager")
    for step in (lambda: player.load(pipeline, tmp_path / "bands"), lambda: player.arm(pipeline, manifest, 0)):
        with pytest.raises(ValueError, match=r"wrapped by torch\.compile.*compile in place: pipe\.transformer\.compile\(\)"):
            step()
    pipeline.transformer = pipeline.transformer._orig_mod
    player.arm(pipeline, manifest, 0)
