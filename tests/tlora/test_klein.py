"""FLUX.2 klein's latents, prompts, predictions and pictures are those of diffusers' own pipeline."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.tiny_klein import ENCODER_WIDTH, LATENT_CHANNELS, TEXT_WIDTH, tiny_klein_folder
from tests.tlora.adapted import CFG, MASKS, ORTHO
from tests.tlora.test_inject_klein import EVERY_SUFFIX
from tlora.adapter import TLoRALinear
from tlora.errors import ModelError
from tlora.flux.families import FLUX_2_KLEIN
from tlora.flux.latents import image_ids, pack, text_ids
from tlora.flux.model import (
    Conditioning,
    decode_latents,
    encode_posterior,
    image_tokens_of,
    load_scheduler,
    load_transformer,
    load_vae,
    outline_transformer,
    predict_velocity,
)
from tlora.flux.noise import NoiseSettings, draw_sigma, empirical_mu, sample_generator
from tlora.flux.spec import ModelSpec
from tlora.inject import adapter_layers, eject_tlora_from_transformer, inject_tlora_into_transformer
from tlora.pictures.tokens import count_tokens, load_tokenizers, truncate_caption
from tlora.sampling import Painter, SampleSettings, denoise, draw_pictures, draws_twice, initial_noise, set_timesteps
from tlora.text import encode_captions, load_text_encoders

LONG = "a wall " * 300
SMALL = SampleSettings(width=24, height=16, num_inference_steps=3, guidance_scale=4.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return ModelSpec(str(tiny_klein_folder(tmp_path_factory.mktemp("base") / "klein")), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def pipeline(base: ModelSpec) -> Flux2KleinPipeline:
    loaded: Flux2KleinPipeline = Flux2KleinPipeline.from_pretrained(base.path)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def embedded(base: ModelSpec, *prompts: str, length: int = 512) -> tuple[Tensor, Tensor]:
    found = dict(encode_captions(load_text_encoders(base), prompts, length))
    return torch.stack([found[p].prompt_embeds for p in prompts]), torch.stack([found[p].pooled_prompt_embeds for p in prompts])


def as_patches(latents: Tensor) -> Tensor:
    """Fold latents as the pipeline holds them, (batch, 4c, h/2, w/2)."""
    return rearrange(latents, "b c (h p) (w q) -> b (c p q) h w", p=2, q=2)


def test_latents_are_those_of_the_pipeline_batch_norm_and_mode_included(base: ModelSpec, pipeline: Flux2KleinPipeline) -> None:
    pixels = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = encode_posterior(load_vae(base), pixels)
    with torch.no_grad():
        expected = pipeline._encode_vae_image(pixels, torch.Generator())
    torch.testing.assert_close(as_patches(mean), expected)
    assert not std.any()
    assert mean.shape == (2, LATENT_CHANNELS, 8, 12)
    torch.testing.assert_close(pack(mean), pipeline._pack_latents(expected))


def test_latents_are_unpacked_and_decoded_as_by_the_pipeline(base: ModelSpec, pipeline: Flux2KleinPipeline) -> None:
    latents, vae = torch.randn(2, LATENT_CHANNELS, 8, 12, generator=torch.Generator().manual_seed(1)), pipeline.vae
    ids = pipeline._prepare_latent_ids(as_patches(latents))
    folded = pipeline._unpack_latents_with_ids(pack(latents), ids, 4, 6)
    std = torch.sqrt(vae.bn.running_var + vae.config.batch_norm_eps).view(1, -1, 1, 1)
    with torch.no_grad():
        z = pipeline._unpatchify_latents(folded * std + vae.bn.running_mean.view(1, -1, 1, 1))
        expected = vae.decode(z).sample.clamp(-1, 1)
    torch.testing.assert_close(decode_latents(load_vae(base), latents), expected)


def test_positions_have_four_columns_as_the_pipelines(pipeline: Flux2KleinPipeline) -> None:
    assert torch.equal(image_ids(6, 10, 4), pipeline._prepare_latent_ids(torch.zeros(1, 1, 3, 5))[0].float())
    assert torch.equal(text_ids(7, 4), pipeline._prepare_text_ids(torch.zeros(1, 7, 1))[0].float())


@pytest.mark.parametrize("length", [512, 20])
@pytest.mark.parametrize("prompt", ["a wall", "", LONG], ids=["short", "empty", "too long"])
def test_a_prompt_is_encoded_as_the_pipeline_does(
    prompt: str, length: int, base: ModelSpec, pipeline: Flux2KleinPipeline
) -> None:
    text, pooled = embedded(base, prompt, length=length)
    with torch.no_grad():
        expected, _ = pipeline.encode_prompt(prompt, max_sequence_length=length)
    torch.testing.assert_close(text, expected)
    assert text.shape == (1, length, 3 * ENCODER_WIDTH)
    assert pooled.shape == (1, 0)


def test_tokens_are_counted_with_what_the_chat_puts_around_a_caption(
    base: ModelSpec, pipeline: Flux2KleinPipeline, tmp_path: Path
) -> None:
    (qwen,) = load_tokenizers(base, 512, tmp_path)
    said = [{"role": "user", "content": "a wall"}]
    asked = pipeline.tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert (qwen.encoder, qwen.limit) == ("Qwen3", 512)
    assert count_tokens(qwen, ["a wall"]) == {"a wall": len(pipeline.tokenizer(asked).input_ids)}
    (short,) = load_tokenizers(base, 10, tmp_path)
    read, lost = truncate_caption(short, "a wall of brick")
    assert read + lost == "a wall of brick"
    cut = pipeline.tokenizer(f"{short.before}a wall of brick", truncation=True, max_length=10).input_ids
    assert pipeline.tokenizer.decode(cut).endswith(read)


def test_a_prediction_of_training_is_that_of_the_pipelines_forward(base: ModelSpec, pipeline: Flux2KleinPipeline) -> None:
    source = torch.Generator().manual_seed(2)
    latents, text = torch.randn(2, LATENT_CHANNELS, 6, 10, generator=source), torch.randn(2, 9, TEXT_WIDTH, generator=source)
    timestep = torch.tensor([812.5, 93.75])
    conditioning = Conditioning(text, torch.zeros(2, 0), 1.0)
    with torch.no_grad():
        ours = predict_velocity(load_transformer(base), latents, timestep, conditioning)
        packed, ids = pipeline.prepare_latents(
            2, LATENT_CHANNELS, 12, 20, torch.float32, torch.device("cpu"), None, as_patches(latents)
        )
        theirs = pipeline.transformer(
            hidden_states=packed,
            timestep=timestep / 1000,
            guidance=None,
            encoder_hidden_states=text,
            txt_ids=pipeline._prepare_text_ids(text),
            img_ids=ids,
            return_dict=False,
        )[0]
    torch.testing.assert_close(as_patches(ours), pipeline._unpack_latents_with_ids(theirs, ids, 3, 5))


@pytest.mark.parametrize("tokens", [64, 4096, 5000])
@pytest.mark.parametrize("steps", [4, 50])
def test_noise_levels_are_shifted_as_the_pipeline_shifts_them(tokens: int, steps: int, base: ModelSpec) -> None:
    from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

    assert empirical_mu(tokens, steps) == pytest.approx(compute_empirical_mu(tokens, steps), rel=1e-12)
    scheduler = load_scheduler(base)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=compute_empirical_mu(tokens, steps))
    torch.testing.assert_close(set_timesteps(load_scheduler(base), steps, tokens, FLUX_2_KLEIN), scheduler.timesteps.float())


def test_training_that_follows_the_sampler_draws_more_noise_than_for_flux_1() -> None:
    settings = NoiseSettings("shifted")
    ours, flux = (
        torch.cat([draw_sigma(settings, 1024, sample_generator(0, step, 0), *family) for step in range(200)]).mean()
        for family in ((FLUX_2_KLEIN,), ())
    )
    assert ours > flux + 0.1


def painter_of(base: ModelSpec, transformer: nn.Module) -> Painter:
    assert draws_twice(base)
    return Painter(transformer, load_vae(base), load_scheduler(base), empty_prompt=embedded(base, ""))


def with_full_ranks(transformer: nn.Module) -> dict[str, Tensor]:
    """Return an adapter as the pipeline loads it, all ranks in use."""
    tensors = {}
    for name, layer in adapter_layers(transformer).items():
        assert isinstance(layer, TLoRALinear)
        tensors[f"transformer.{name}.lora_A.weight"] = layer.down.weight.detach().clone()
        tensors[f"transformer.{name}.lora_B.weight"] = layer.up.weight.detach() * layer.cfg.alpha / layer.cfg.rank
    return tensors


@pytest.mark.parametrize("guidance", [4.0, 1.0], ids=["guided", "unguided"])
def test_a_picture_is_that_of_the_pipeline_with_the_same_adapter_at_full_rank(
    guidance: float, base: ModelSpec, pipeline: Flux2KleinPipeline, tmp_path: Path
) -> None:
    sample = dataclasses.replace(SMALL, guidance_scale=guidance, sigma_mask="full")
    transformer = load_transformer(base)
    inject_tlora_into_transformer(transformer, EVERY_SUFFIX, CFG)
    _move(transformer, by=0.4)
    painter = painter_of(base, transformer.eval())
    (ours,) = draw_pictures(painter, embedded(base, "a wall"), [3], sample)
    save_file(with_full_ranks(transformer), tmp_path / "lora.safetensors")
    pipeline.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    try:
        (theirs,) = pipeline(
            prompt="a wall",
            height=16,
            width=24,
            num_inference_steps=3,
            guidance_scale=guidance,
            latents=as_patches(initial_noise(painter.vae, [3], sample)),
        ).images
    finally:
        pipeline.unload_lora_weights()
    assert np.abs(np.asarray(ours, np.int16) - np.asarray(theirs, np.int16)).max() <= 1
    (bare,) = draw_pictures(
        dataclasses.replace(painter, transformer=load_transformer(base)), embedded(base, "a wall"), [3], sample
    )
    assert np.abs(np.asarray(ours, np.int16) - np.asarray(bare, np.int16)).max() > 4


def _move(transformer: nn.Module, by: float = 0.1) -> None:
    source = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn(parameter.shape, generator=source))
                assert ".base." not in name


def test_both_halves_of_guidance_share_a_batch_and_the_steps_mask(base: ModelSpec) -> None:
    transformer = load_transformer(base)
    inject_tlora_into_transformer(transformer, EVERY_SUFFIX, CFG)
    _move(transformer)
    seen: list[tuple[int, Tensor]] = []
    transformer.register_forward_pre_hook(
        lambda _module, _args, given: seen.append(
            (len(given["hidden_states"]), given["joint_attention_kwargs"]["sigma_mask"][0])
        ),
        with_kwargs=True,
    )
    painter = painter_of(base, transformer.eval())
    noise = initial_noise(painter.vae, [3, 4], SMALL)
    times = [step.timestep for step in denoise(painter, noise, embedded(base, "a wall", "a bird"), SMALL)]
    assert [batch for batch, _ in seen] == [4, 4, 4]
    expected = CFG.schedule().mask(torch.tensor(times))
    assert torch.equal(torch.cat([mask for _, mask in seen]), expected)


def test_a_picture_does_not_depend_on_its_neighbours_when_guided(base: ModelSpec) -> None:
    painter = painter_of(base, load_transformer(base))
    noise = initial_noise(painter.vae, [3, 4], SMALL)
    *_, together = denoise(painter, noise, embedded(base, "a wall", "a bird"), SMALL)
    *_, alone = denoise(painter, noise[1:], embedded(base, "a bird"), SMALL)
    torch.testing.assert_close(together.latents[1:], alone.latents, rtol=1e-4, atol=1e-5)


def test_a_distilled_klein_is_drawn_without_a_second_forward(tmp_path: Path) -> None:
    assert not draws_twice(ModelSpec(str(tiny_klein_folder(tmp_path / "klein", is_distilled=True))))


def test_the_outline_has_no_weights_and_knows_its_picture_tokens(base: ModelSpec) -> None:
    outline = outline_transformer(base)
    assert next(outline.parameters()).is_meta
    assert image_tokens_of(base, 24, 16) == 6 * 4


@pytest.mark.parametrize("quantisation", ["int8", "nf4"])
def test_quantised_blocks_predict_nearly_the_same_and_carry_an_adapter(quantisation: str, base: ModelSpec) -> None:
    pytest.importorskip("bitsandbytes")
    source = torch.Generator().manual_seed(4)
    latents, text = torch.randn(2, LATENT_CHANNELS, 6, 10, generator=source), torch.randn(2, 9, TEXT_WIDTH, generator=source)
    given = (latents, torch.tensor([800.0, 100.0]), Conditioning(text, torch.zeros(2, 0), 1.0))
    exact = predict_velocity(load_transformer(base), *given)
    held = load_transformer(dataclasses.replace(base, quantisation=quantisation))
    rough = predict_velocity(held, *given)
    assert 0 < (rough - exact).norm() / exact.norm() < {"int8": 0.05, "nf4": 0.5}[quantisation]
    for cfg in (CFG, ORTHO):
        layers = inject_tlora_into_transformer(held, EVERY_SUFFIX, dataclasses.replace(cfg, rank=4), seed=0, slot=0)
        assert layers == 28
        torch.testing.assert_close(predict_velocity(held, *given, MASKS[:1]), rough, rtol=1e-3, atol=1e-4)
        eject_tlora_from_transformer(held)


@pytest.mark.parametrize(
    ("gone", "line"),
    [
        ("tokenizer/tokenizer.json", r"klein/tokenizer: no tokenizer there"),
        ("text_encoder/config.json", "klein/text_encoder: no text encoder there"),
    ],
)
def test_a_klein_without_its_tokenizer_or_encoder_is_one_line(gone: str, line: str, tmp_path: Path) -> None:
    folder = tiny_klein_folder(tmp_path / "klein")
    (folder / gone).unlink()
    with pytest.raises(ModelError, match=line):
        load_text_encoders(ModelSpec(str(folder)))
