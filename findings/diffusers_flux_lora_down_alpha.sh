#!/bin/bash
# diffusers 0.42.1, FLUX: of a LoRA with keys transformer.*.lora_down.weight, lora_up.weight and alpha, the alpha is dropped without a word.
# The same three tensors under lora_A and lora_B names, or under kohya's names, are scaled by alpha / rank.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "torch==2.13.0" "diffusers==0.42.1" "transformers==5.23.0" "peft==0.21.2" "safetensors==0.8.0" "accelerate==1.15.0"
cat > "$folder/run.py" <<'PY'
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel

RANK, WIDTH, ALPHA = 4, 32, 1.0
down, up, alpha = torch.randn(RANK, WIDTH), torch.randn(WIDTH, RANK), torch.tensor(ALPHA)


def strength(tensors):
    """Return by what stock diffusers multiplies up @ down."""
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, pooled_projection_dim=16, axes_dims_rope=(4, 6, 6),
    )
    pipe = FluxPipeline(scheduler=None, vae=None, text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, transformer=transformer)
    pipe.load_lora_weights(tensors, adapter_name="a")
    layer = next(m for m in transformer.modules() if hasattr(m, "lora_A"))
    update = layer.lora_B["a"].weight @ layer.lora_A["a"].weight * layer.scaling["a"]
    return round(float((update * (up @ down)).sum() / (up @ down).square().sum()), 4)


def named(layer, low, high):
    return {f"{layer}.{low}.weight": down, f"{layer}.{high}.weight": up, f"{layer}.alpha": alpha}


diffusers_names = "transformer.transformer_blocks.0.attn.to_out.0"
peft = strength(named(diffusers_names, "lora_A", "lora_B"))
kohya = strength(named("lora_unet_double_blocks_0_img_attn_proj", "lora_down", "lora_up"))
mixed = strength(named(diffusers_names, "lora_down", "lora_up"))
print("lora_A/lora_B + alpha:", peft, "| kohya + alpha:", kohya, "| transformer.*.lora_down + alpha:", mixed)
# Expected: 0.25 (alpha / rank) three times.
# Seen: 0.25, 0.25, 1.0
assert (peft, kohya, mixed) == (0.25, 0.25, 1.0), "the behaviour has changed"
PY
"$folder/venv/bin/python" "$folder/run.py"
