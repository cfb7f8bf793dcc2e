"""LoRAs of other tools come in whole or not at all: real files of LyCORIS, the authors' layout, PEFT's settings."""

import gc
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from lycoris import LycorisNetwork, create_lycoris
from lycoris.modules.tlora import clear_timestep_mask, set_timestep_mask
from safetensors.torch import save_file
from torch import Tensor

from tests.tiny_flux import WIDTH, predict, tiny_inputs, tiny_pipeline_folder, tiny_transformer
from tests.tlora.adapted import MASKS
from tlora.checkpoint import attach_adapter
from tlora.cli import main
from tlora.metadata.adapter import read_metadata

RANK = 4


def random(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def imported(folder: Path, file: Path, *more: str) -> torch.nn.Module:
    """Import a file from the command line and return a tiny FLUX that carries it."""
    main(["import", str(file), "--out", str(folder / "ours"), *more])
    transformer = tiny_transformer()
    attach_adapter(transformer, folder / "ours")
    return transformer


def authors_tensors() -> dict[str, Tensor]:
    """Return what the authors' training saves: seven layers for every processor, four of them dead in single blocks."""
    tensors = {}
    for list_name in ("transformer_blocks", "single_transformer_blocks"):
        for block in range(2):
            for layer in ("to_q", "to_k", "to_v", "to_out", "to_q_proj", "to_k_proj", "to_v_proj"):
                dead = list_name.startswith("single") and layer not in ("to_q", "to_k", "to_v")
                name = f"{list_name}.{block}.attn.processor.{layer}_lora"
                tensors[f"{name}.down.weight"] = random(RANK, WIDTH, seed=len(tensors))
                tensors[f"{name}.up.weight"] = torch.zeros(WIDTH, RANK) if dead else random(WIDTH, RANK, seed=len(tensors))
    return tensors


def test_the_authors_file_predicts_what_their_processors_add(tmp_path: Path) -> None:
    """Their layer adds up(mask * down(x)), without alpha / rank."""
    tensors = authors_tensors()
    torch.save(tensors, tmp_path / "lora.pt")
    transformer = imported(tmp_path, tmp_path / "lora.pt", "--min-rank", "1", "--trigger", "sks")
    metadata = read_metadata(tmp_path / "ours" / "tlora_weights.safetensors")
    assert (metadata.config.rank, metadata.config.alpha, metadata.config.min_rank, metadata.trigger) == (4, 4.0, 1, "sks")
    assert len(metadata.target_modules) == 2 * 7 + 2 * 3
    given = {"sigma_mask": MASKS[1:2]}
    bare = tiny_transformer()
    for name, module in list(bare.named_modules()):
        prefix, _, layer = name.partition(".attn.")
        theirs = {"to_out.0": "to_out", "add_q_proj": "to_q_proj", "add_k_proj": "to_k_proj", "add_v_proj": "to_v_proj"}
        key = f"{prefix}.attn.processor.{theirs.get(layer, layer)}_lora"
        if f"{key}.up.weight" in tensors and isinstance(module, torch.nn.Linear):
            up, down = tensors[f"{key}.up.weight"], tensors[f"{key}.down.weight"]
            module.weight.data += up @ (MASKS[1][:, None] * down)
    expected = predict(bare, tiny_inputs(2))
    torch.testing.assert_close(predict(transformer, tiny_inputs(2), given), expected, rtol=1e-4, atol=1e-4)


def trained_by_lycoris(file: Path, start: dict[str, Any] | None = None) -> FluxTransformer2DModel:
    """Save a LyCORIS T-LoRA of a tiny FLUX after something like training, and return the tiny FLUX with it."""
    theirs = tiny_transformer()
    LycorisNetwork.apply_preset({"target_module": ["FluxAttention"], "target_name": []})
    network = create_lycoris(theirs, 1.0, linear_dim=RANK, linear_alpha=2, algo="tlora", bypass_mode=True)
    if start is not None:  # what create_lycoris takes no notice of
        for layer in network.loras:
            layer.sig_type, layer.use_data_init = start["sig_type"], start["use_data_init"]
            inside, outside = layer.q_layer.in_features, layer.p_layer.out_features
            layer._initialize_from_svd(layer.org_module[0], inside, outside, inside)
            layer.base_q, layer.base_p = layer.q_layer.weight.data.clone(), layer.p_layer.weight.data.clone()
            layer.base_lambda = layer.lambda_layer.data.clone()
    network.apply_to()
    with torch.no_grad():
        for index, parameter in enumerate(network.parameters()):
            parameter.add_(random(*parameter.shape, seed=index))
    network.save_weights(str(file), torch.float32, {})
    return theirs


@pytest.mark.slow
@pytest.mark.parametrize("sig_type", ["principal", "last"])
def test_a_lycoris_t_lora_predicts_what_lycoris_predicts_at_every_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sig_type: str
) -> None:
    monkeypatch.setattr(gc, "collect", lambda: 0)  # LyCORIS collects after every layer, two seconds each time
    base = tiny_pipeline_folder(tmp_path / "base")
    start = None if sig_type == "principal" else {"sig_type": sig_type, "use_data_init": True}
    theirs, file = trained_by_lycoris(tmp_path / "lycoris.safetensors", start), tmp_path / "lycoris.safetensors"
    if start:
        with pytest.raises(SystemExit, match=r"only \d+% of its q_layer lies in the principal singular vectors .*--sig-type"):
            imported(tmp_path, file, "--base", str(base))
    transformer = imported(tmp_path, file, "--base", str(base), "--min-rank", "1", "--sig-type", sig_type)
    try:
        for rank in (1, 3, 4):
            set_timestep_mask(MASKS[rank - 1 : rank])
            expected = predict(theirs, tiny_inputs(1))
            got = predict(transformer, tiny_inputs(1), {"sigma_mask": MASKS[rank - 1 : rank]})
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    finally:
        clear_timestep_mask()
    assert not torch.allclose(expected, predict(tiny_transformer(), tiny_inputs(1)), rtol=1e-3, atol=1e-3)
    with pytest.raises(SystemExit, match="lacks its initial factors: give --base"):
        main(["import", str(file), "--out", str(tmp_path / "other")])


@pytest.mark.slow
def test_a_lycoris_t_lora_that_started_from_a_random_matrix_or_another_base_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gc, "collect", lambda: 0)
    own, other = tiny_pipeline_folder(tmp_path / "own"), tiny_pipeline_folder(tmp_path / "other", seed=1)
    trained_by_lycoris(tmp_path / "random.safetensors", {"sig_type": "principal", "use_data_init": False})
    trained_by_lycoris(tmp_path / "usual.safetensors")
    for name, base in (("random", own), ("usual", other)):
        with pytest.raises(
            SystemExit, match=r"q_layer lies in the principal .*it was trained on another base, or from other vectors"
        ):
            imported(tmp_path, tmp_path / f"{name}.safetensors", "--base", str(base))
        assert not (tmp_path / "ours").exists()


def diffusers_file(path: Path, metadata: dict[str, str] | None = None, **more: Tensor) -> Path:
    tensors = {
        "transformer.transformer_blocks.0.attn.to_q.lora_A.weight": random(3, WIDTH),
        "transformer.transformer_blocks.0.attn.to_q.lora_B.weight": random(WIDTH, 3, seed=1),
        "transformer.single_transformer_blocks.1.proj_mlp.lora_A.weight": random(2, WIDTH, seed=2),
        "transformer.single_transformer_blocks.1.proj_mlp.lora_B.weight": random(4 * WIDTH, 2, seed=3),
    }
    save_file(tensors | more, path, metadata)
    return path


def with_updates(scale: float) -> Tensor:
    """Return the prediction of a tiny FLUX to whose weights the updates of `diffusers_file` have been added."""
    bare = tiny_transformer()
    bare.transformer_blocks[0].attn.to_q.weight.data += scale * random(WIDTH, 3, seed=1) @ random(3, WIDTH)
    bare.single_transformer_blocks[1].proj_mlp.weight.data += scale * random(4 * WIDTH, 2, seed=3) @ random(2, WIDTH, seed=2)
    return predict(bare, tiny_inputs(1))


def test_layers_of_several_ranks_are_filled_up_with_zeros(tmp_path: Path) -> None:
    transformer = imported(tmp_path, diffusers_file(tmp_path / "lora.safetensors"))
    assert read_metadata(tmp_path / "ours" / "tlora_weights.safetensors").config.rank == 3
    torch.testing.assert_close(predict(transformer, tiny_inputs(1)), with_updates(1.0), rtol=1e-4, atol=1e-4)


def test_alpha_in_pefts_settings_counts(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "transformer.r": 3, "transformer.lora_alpha": 1.5,
        "transformer.alpha_pattern": {"single_transformer_blocks.1.proj_mlp": 1.0},
    }  # fmt: skip
    file = diffusers_file(tmp_path / "lora.safetensors", {"lora_adapter_metadata": json.dumps(settings)})
    torch.testing.assert_close(predict(imported(tmp_path, file), tiny_inputs(1)), with_updates(0.5), rtol=1e-4, atol=1e-4)


def test_alpha_as_a_tensor_counts(tmp_path: Path) -> None:
    alphas = {
        "transformer.transformer_blocks.0.attn.to_q.alpha": torch.tensor(1.5),
        "transformer.single_transformer_blocks.1.proj_mlp.alpha": torch.tensor(1.0),
    }
    file = diffusers_file(tmp_path / "lora.safetensors", None, **alphas)
    torch.testing.assert_close(predict(imported(tmp_path, file), tiny_inputs(1)), with_updates(0.5), rtol=1e-4, atol=1e-4)


def test_flattened_names_of_other_trainers_are_understood(tmp_path: Path) -> None:
    names = {"lora_transformer_transformer_blocks_0_attn_to_q": WIDTH, "lycoris_single_transformer_blocks_1_proj_mlp": 4 * WIDTH}
    tensors = {}
    for (name, rows), rank, seed in zip(names.items(), (3, 2), (0, 2), strict=True):
        tensors[f"{name}.lora_down.weight"] = random(rank, WIDTH, seed=seed)
        tensors[f"{name}.lora_up.weight"] = random(rows, rank, seed=seed + 1)
        tensors[f"{name}.alpha"] = torch.tensor(2.0 * rank)
    save_file(tensors, tmp_path / "lora.safetensors")
    transformer = imported(tmp_path, tmp_path / "lora.safetensors")
    torch.testing.assert_close(predict(transformer, tiny_inputs(1)), with_updates(2.0), rtol=1e-4, atol=1e-4)


Q = "transformer_blocks.0.attn.to_q"
REFUSED = {
    "text encoder": (
        {"text_encoder.text_model.x.lora_A.weight": random(1, 2)}, "'text_encoder.text_model.x' of a text encoder.*--skip-out"
    ),
    "outside the blocks": (
        {"transformer.x_embedder.lora_A.weight": random(1, 2), "transformer.x_embedder.lora_B.weight": random(2, 1)},
        "holds layer 'transformer.x_embedder' outside FLUX's blocks, 100.0% of the .*--skip-outside",
    ),
    "no layer of FLUX": ({"transformer.y.lora_A.weight": random(1, 2)}, "unknown layer 'transformer.y': FLUX.1 has no "),
    "DoRA": ({f"transformer.{Q}.lora_magnitude_vector": random(2)}, "unknown key .*_vector': the file is a DoRA"),
    "kohya's DoRA": ({"lora_unet_single_blocks_0_linear2.dora_scale": random(2)}, "dora_scale': the file is a DoRA"),
    "biases": ({f"transformer.{Q}.lora_B.bias": random(2)}, "unknown key .*lora_B.bias': the file is a LoRA with biases"),
    "whole differences": ({"diffusion_model.double_blocks.0.img_mlp.0.diff_b": random(2)}, "a LoRA with whole differences"),
    "kohya text encoder": ({"lora_te1_x.lora_down.weight": random(1, 2)}, "layer 'lora_te1_x' of a text encoder"),
    "LoKr": ({"lycoris_transformer_blocks_0_attn_to_q.lokr_w1": random(2, 2)}, "unknown key .*lokr_w1': the file is a LoKr"),
    "unknown key": ({f"transformer.{Q}.gate": random(2, 2)}, "unknown key .*gate': not imported"),
    "half a pair": ({f"transformer.{Q}.lora_A.weight": random(1, 2)}, "missing key .*lora_B.weight'"),
    "no pair": (
        {f"transformer.{Q}.lora_A.weight": random(1, 2), f"transformer.{Q}.lora_B.weight": random(2, 3)},
        r"up \(2, 3\) and down \(1, 2\) do not fit each other",
    ),
    "of rank 0": (
        {f"transformer.{Q}.lora_A.weight": random(0, 2), f"transformer.{Q}.lora_B.weight": random(2, 0)}, "do not fit each other",
    ),
    "one layer twice": (
        {f"{prefix}.{end}.weight": random(2, 2) for prefix in (Q, f"transformer.{Q}") for end in ("lora_A", "lora_B")},
        f"a second LoRA for {Q}",
    ),
    "not finite": ({f"transformer.{Q}.lora_A.weight": torch.tensor([[float("inf")]])}, "holds a value that is not finite"),
    "not finite in float8": (
        {f"transformer.{Q}.lora_A.weight": torch.full((1, 1), torch.nan).to(torch.float8_e4m3fn)}, "not finite",
    ),
    "whole numbers": ({f"{Q}.lora_A.weight": torch.ones(1, 2).char()}, "holds int8 numbers, whose scale is not known"),
    "fused in odd rows": (
        {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": random(1, 2),
         "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": random(7, 1)}, "has 7 rows, no multiple of 3",
    ),
    "LyCORIS without alpha": ({"lycoris_transformer_blocks_0_attn_to_q.lambda_layer": random(1, 2)}, "missing key"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_is_refused_by_name_and_nothing_is_written(
    tmp_path: Path, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tensors, message = REFUSED[name]
    save_file(tensors, tmp_path / "lora.safetensors")
    base = tmp_path_factory.getbasetemp() / "import-base"
    if not base.exists():
        tiny_pipeline_folder(base)
    with pytest.raises(SystemExit, match=rf"tlora import: error: .*lora\.safetensors: .*{message}"):
        main(["import", str(tmp_path / "lora.safetensors"), "--out", str(tmp_path / "ours"), "--base", str(base)])
    assert not (tmp_path / "ours").exists()


def test_a_dead_layer_that_is_not_zero_is_not_skipped(tmp_path: Path) -> None:
    tensors = authors_tensors()
    tensors["single_transformer_blocks.0.attn.processor.to_out_lora.up.weight"][0, 0] = 1.0
    torch.save(tensors, tmp_path / "lora.pt")
    with pytest.raises(SystemExit, match=r"to_out_lora\.up\.weight is not zero, and single blocks have no such layer"):
        main(["import", str(tmp_path / "lora.pt"), "--out", str(tmp_path / "ours")])


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return _spring, (str(self.path),)


def _spring(path: str) -> None:
    Path(path).write_text("code ran")


def test_a_pickle_that_holds_more_than_tensors_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    torch.save({"a": Trap(tmp_path / "sprung")}, tmp_path / "lora.pt")
    with pytest.raises(SystemExit, match=r"lora\.pt: not a file of tensors alone"):
        main(["import", str(tmp_path / "lora.pt"), "--out", str(tmp_path / "ours")])
    assert not (tmp_path / "sprung").exists()


def test_a_schedule_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    file = diffusers_file(tmp_path / "lora.safetensors")
    with pytest.raises(SystemExit, match="the file has rank 3: need 1 <= min_rank <= rank, got 5 and 3"):
        main(["import", str(file), "--out", str(tmp_path / "ours"), "--min-rank", "5"])
