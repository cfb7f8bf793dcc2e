#!/bin/bash
# diffusers 0.42.1, FLUX: kohya LoRAs of layers outside the blocks (img_in, txt_in, time_in, vector_in, guidance_in, final_layer) are converted to names
# without the prefix "transformer.", which load_lora_weights then filters out: the layers are dropped, without an error or a warning of theirs.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "torch==2.13.0" "diffusers==0.42.1" "transformers==5.23.0" "peft==0.21.2" "safetensors==0.8.0" "accelerate==1.15.0"
cat > "$folder/run.py" <<'PY'
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel

RANK, WIDTH = 4, 32
transformer = FluxTransformer2DModel(
    patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
    joint_attention_dim=24, pooled_projection_dim=16, axes_dims_rope=(4, 6, 6),
)
pipe = FluxPipeline(scheduler=None, vae=None, text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, transformer=transformer)
tensors = {}
for layer, inside in {"double_blocks_0_img_attn_proj": WIDTH, "img_in": 16, "txt_in": 24}.items():
    tensors[f"lora_unet_{layer}.lora_down.weight"] = torch.randn(RANK, inside)
    tensors[f"lora_unet_{layer}.lora_up.weight"] = torch.randn(WIDTH, RANK)
    tensors[f"lora_unet_{layer}.alpha"] = torch.tensor(float(RANK))
pipe.load_lora_weights(tensors, adapter_name="a")
adapted = sorted(name for name, module in transformer.named_modules() if hasattr(module, "lora_A"))
print("adapted:", adapted)
# Expected: context_embedder, transformer_blocks.0.attn.to_out.0 and x_embedder, or an error.
# Seen: ['transformer_blocks.0.attn.to_out.0']
assert adapted == ["transformer_blocks.0.attn.to_out.0"], "the behaviour has changed"
PY
"$folder/venv/bin/python" "$folder/run.py"
