"""The names that people build on stay where README imports them from, take what they took, and README's example runs."""

import importlib
import inspect
import re
from pathlib import Path

import pytest
import torch

from tests.tiny_flux import tiny_inputs, tiny_transformer
from tlora.adapter import OrthoTLoRALinear, TLoRAConfig, TLoRALinear
from tlora.checkpoint import attach_adapter, save_tlora_weights
from tlora.inject import inject_tlora_into_transformer, patch_transformer_forward_for_joint_attention_kwargs
from tlora.metadata.adapter import read_metadata

ROOT = Path(__file__).parents[1]
SIGNATURES = {
    "tlora.adapter.TLoRAConfig": (
        "rank=16, alpha=16.0, dropout=0.0, min_rank=8, alpha_rank_scale=1.0, trainer_type='lora', sig_type='principal',"
        " enable_rank_masking=True, svd_source='weight'"
    ),
    "tlora.adapter.TLoRALinear": "base, cfg, generator=None, *, initialise=True",
    "tlora.adapter.OrthoTLoRALinear": "base, cfg, generator=None, *, initialise=True",
    "tlora.schedule.sigma_mask_from_timestep": (
        "timestep, max_timestep, rank, min_rank, alpha_rank_scale=1.0, device=None, dtype=torch.float32"
    ),
    "tlora.schedule.sigma_mask_from_step_index": (
        "step_idx, num_inference_steps, rank, min_rank, alpha_rank_scale=1.0, device=None, dtype=torch.float32"
    ),
    "tlora.inject.inject_tlora_into_transformer": (
        "transformer, target_module_suffixes, cfg, *, seed=0, slot=0, leave_blocks_out=False"
    ),
    "tlora.inject.eject_tlora_from_transformer": "transformer",
    "tlora.inject.patch_transformer_forward_for_joint_attention_kwargs": "transformer",
    "tlora.inject.tlora_parameters": "module",
    "tlora.checkpoint.save_tlora_weights": "module, out_file, metadata=None",
    "tlora.checkpoint.load_tlora_weights": "module, file, strict=True, *, slot=0",
    "tlora.data.CaptionDataset": "folder, views, multiple, names=None",
    "tlora.text.precompute_prompt_cache_cpu_then_to_gpu": "pipe, captions, gpu_device, dtype, max_sequence_length=77",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_public_name_takes_what_it_took(name: str):
    module, _, attribute = name.rpartition(".")
    found = getattr(importlib.import_module(module), attribute)
    parameters = inspect.signature(found).parameters.values()
    plain = [parameter.replace(annotation=parameter.empty) for parameter in parameters if parameter.name != "self"]
    assert str(inspect.Signature(plain)) == f"({SIGNATURES[name]})"


def test_layers_and_transformer_have_the_documented_attributes():
    layer = OrthoTLoRALinear(torch.nn.Linear(6, 8), TLoRAConfig(rank=4, min_rank=1, trainer_type="ortho_lora"))
    for part in ("q_layer", "p_layer", "lambda_layer", "base_q", "base_p", "base_lambda"):
        assert hasattr(layer, part)
    transformer = tiny_transformer()
    patch_transformer_forward_for_joint_attention_kwargs(transformer)
    assert (transformer._tlora_sigma_mask, transformer._tlora_scale) == (None, 1.0)


def test_the_example_of_the_readme_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (example,) = (block for block in blocks if "from tlora" in block)
    given, transformer = tiny_inputs(2), tiny_transformer()
    inputs = {
        "hidden_states": given.packed,
        "guidance": given.guidance,
        "pooled_projections": given.pooled,
        "encoder_hidden_states": given.text,
        "txt_ids": torch.zeros(given.text.shape[1], 3),
        "img_ids": given.image_ids,
    }
    monkeypatch.chdir(tmp_path)
    exec(example, {"transformer": transformer, "timestep": given.timestep, "inputs": inputs})  # noqa: S102
    assert isinstance(transformer.get_submodule("transformer_blocks.0.attn.to_q"), TLoRALinear)


def test_an_adapter_saved_without_metadata_says_what_its_layers_know_and_can_be_attached(tmp_path: Path):
    cfg, file = TLoRAConfig(rank=4, min_rank=2), tmp_path / "adapter.safetensors"
    transformer, suffixes = tiny_transformer(), ("transformer_blocks.0.attn.to_q", "proj_out")
    inject_tlora_into_transformer(transformer, suffixes, cfg)
    save_tlora_weights(transformer, file)
    about = read_metadata(file)
    assert (about.config, about.target_modules, about.base, about.step) == (cfg, suffixes, "", 0)
    attach_adapter(tiny_transformer(), file)
    bare = torch.nn.ModuleDict({"wall": TLoRALinear(torch.nn.Linear(6, 8), cfg)})
    save_tlora_weights(bare, file)
    assert read_metadata(file).target_modules == ("wall",)
