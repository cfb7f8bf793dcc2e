#!/bin/bash
# lycoris-lora 4.1.3: create_lycoris(algo="tlora", sig_type="last") starts from the principal singular vectors all the same, and a T-LoRA that did start
# from others is loaded as if from the principal ones: an untrained one, whose update is 0, comes back with one as large as the weight itself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "torch==2.13.0" "lycoris-lora==4.1.3"
cat > "$folder/run.py" <<'PY'
import torch
from lycoris import create_lycoris, create_lycoris_from_weights
from lycoris.modules.tlora import TLoraModule

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(32, 32, bias=False))
asked = create_lycoris(model, 1.0, linear_dim=4, linear_alpha=4, algo="tlora", sig_type="last").loras[0]
values = torch.linalg.svdvals(model[0].weight.detach())
start = asked.lambda_layer.detach().flatten()
print("starts from the last singular values:", torch.allclose(start, values[-4:]), "| from the first:", torch.allclose(start, values[:4], rtol=1e-3))

own = TLoraModule("lycoris_0", model[0], lora_dim=4, alpha=4, sig_type="last")
product = (own.p_layer.weight * own.lambda_layer) @ own.q_layer.weight - (own.base_p * own.base_lambda) @ own.base_q
saved = {f"lycoris_0.{name}": tensor.detach() for name, tensor in own.state_dict().items() if not name.startswith("base_")}
back = create_lycoris_from_weights(1.0, "", model, weights_sd=saved)[0].loras[0]
again = (back.p_layer.weight * back.lambda_layer) @ back.q_layer.weight - (back.base_p * back.base_lambda) @ back.base_q
share = float(again.norm() / model[0].weight.norm())
print("update before saving:", float(product.norm()), "| after loading, as a share of the weight:", round(share, 2))
# Expected: starts from the last: True; the update is 0 before and after.
# Seen: starts from the last: False, from the first: True; 0 before, more than half of the weight after.
assert not torch.allclose(start, values[-4:]) and torch.allclose(start, values[:4], rtol=1e-3), "sig_type is honoured now"
assert float(product.norm()) < 1e-6 and share > 0.3, "the behaviour has changed"
PY
"$folder/venv/bin/python" "$folder/run.py"
