"""One forward of each part, against diffusers."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.tiny_flux import POOLED_WIDTH, TEXT_WIDTH, Inputs, predict, tiny_pipeline_folder, tiny_transformer
from tests.tlora.adapted import MASKS, adapted
from tlora.errors import ModelError
from tlora.flux.latents import image_ids, pack
from tlora.flux.model import (
    Conditioning,
    choose_device,
    decode_latents,
    encode_posterior,
    load_scheduler,
    load_transformer,
    load_vae,
    pixels_per_latent,
    predict_velocity,
)
from tlora.flux.spec import ModelSpec

TIMESTEPS = torch.tensor([900.0, 100.0])


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return ModelSpec(str(tiny_pipeline_folder(tmp_path_factory.mktemp("base") / "tiny-flux")), dtype="float32", device="cpu")


def sample(height: int = 4, width: int = 6) -> tuple[Tensor, Conditioning]:
    source = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, height, width, generator=source)
    text = torch.randn(2, 5, TEXT_WIDTH, generator=source)
    return latents, Conditioning(text, torch.randn(2, POOLED_WIDTH, generator=source), 1.5)


@pytest.mark.parametrize("guidance", [True, False], ids=["dev", "schnell"])
def test_a_forward_is_that_of_the_transformer_on_packed_latents_with_true_image_ids(guidance: bool) -> None:
    transformer, (latents, text) = tiny_transformer(guidance), sample()
    level = torch.full((2,), 1.5) if guidance else None
    inputs = Inputs(pack(latents), TIMESTEPS, text.prompt_embeds, text.pooled_prompt_embeds, image_ids(4, 6), level)
    velocity = predict_velocity(transformer, latents, TIMESTEPS, text)
    assert velocity.shape == latents.shape
    assert torch.equal(pack(velocity), predict(transformer, inputs))


def test_mask_and_scale_reach_the_adapter() -> None:
    transformer, (latents, text) = adapted(), sample()
    bare = predict_velocity(tiny_transformer(), latents, TIMESTEPS, text)
    assert torch.equal(predict_velocity(transformer, latents, TIMESTEPS, text, MASKS[:2], 0.0), bare)
    one_rank, two_ranks = (predict_velocity(transformer, latents, TIMESTEPS, text, mask) for mask in (MASKS[:1], MASKS[1:2]))
    each = predict_velocity(transformer, latents, TIMESTEPS, text, MASKS[:2])
    torch.testing.assert_close(each, torch.stack([one_rank[0], two_ranks[1]]))
    assert not torch.allclose(one_rank[1], two_ranks[1], rtol=1e-3)


def test_a_bfloat16_base_predicts_in_bfloat16_and_answers_in_float32() -> None:
    transformer, (latents, text) = adapted(), sample()
    exact = predict_velocity(transformer, latents, TIMESTEPS, text, MASKS[:2])
    for name, parameter in transformer.named_parameters():
        if not name.endswith(("down.weight", "up.weight")):
            parameter.data = parameter.data.bfloat16()
    rounded = predict_velocity(transformer, latents, TIMESTEPS, text, MASKS[:2])
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded, rounded.bfloat16().float())
    assert 0 < (rounded - exact).norm() < 0.05 * exact.norm()


def test_a_transformer_wrapped_for_several_processes_will_do(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        transformer, (latents, text) = adapted(), sample()
        wrapped = nn.parallel.DistributedDataParallel(transformer)
        velocity = predict_velocity(wrapped, latents, TIMESTEPS, text, MASKS[:2])
        assert torch.equal(velocity, predict_velocity(transformer, latents, TIMESTEPS, text, MASKS[:2]))
    finally:
        torch.distributed.destroy_process_group()


def test_the_parts_are_loaded_frozen_from_a_folder(spec: ModelSpec) -> None:
    transformer, vae = load_transformer(spec), load_vae(spec)
    assert not any(p.requires_grad for part in (transformer, vae) for p in part.parameters())
    assert not transformer.training
    assert load_scheduler(spec).config.num_train_timesteps == 1000
    expected = tiny_transformer().state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in transformer.state_dict().items())


def test_latents_are_the_posterior_shifted_and_scaled_and_decoding_undoes_it(spec: ModelSpec) -> None:
    vae, pixels = load_vae(spec), torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    posterior = vae.encode(pixels).latent_dist
    mean, std = encode_posterior(vae, pixels)
    assert pixels_per_latent(vae) == 2
    assert mean.shape == (2, 4, 4, 6)
    torch.testing.assert_close(mean, (posterior.mean - 0.1) * 0.4)
    torch.testing.assert_close(std, posterior.std * 0.4)
    torch.testing.assert_close(decode_latents(vae, mean), vae.decode(posterior.mean).sample.clamp(-1, 1))


def test_a_part_that_is_missing_or_damaged_is_one_line(spec: ModelSpec, tmp_path: Path) -> None:
    folder = tiny_pipeline_folder(tmp_path / "broken")
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (folder / "vae" / "config.json").unlink()
    for load, part in ((load_transformer, "transformer"), (load_vae, "vae")):
        with pytest.raises(ModelError, match=rf"broken/{part}: cannot be loaded: \S+") as refusal:
            load(ModelSpec(str(folder), dtype="float32", device="cpu"))
        assert "\n" not in str(refusal.value)


def test_a_folder_that_is_not_there_is_said_before_anything_is_loaded() -> None:
    with pytest.raises(ModelError, match=r"\./models/nothing: no base model there \(model_index\.json is missing\)"):
        load_transformer(ModelSpec("./models/nothing"))


@pytest.mark.parametrize(("device", "message"), [("gpu", "'gpu' is no device"), ("cuda:x", "'cuda:x' is no device")])
def test_a_device_that_is_none_is_refused(device: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelSpec("x", device=device)


def test_a_gpu_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        assert choose_device(ModelSpec("x", device="cuda")).type == "cuda"
    else:
        with pytest.raises(ModelError, match="no GPU can be seen here: use auto or cpu"):
            choose_device(ModelSpec("x", device="cuda"))


def test_importing_it_says_nothing() -> None:
    imported = subprocess.run([sys.executable, "-c", "import tlora.flux.model"], capture_output=True, text=True, check=True)
    assert imported.stdout + imported.stderr == ""
