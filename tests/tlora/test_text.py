"""Captions are encoded as diffusers' own pipeline encodes them, once each, on the CPU."""

import torch

from tests.tiny_flux import tiny_pipeline
from tlora.text import precompute_prompt_cache_cpu_then_to_gpu


def test_a_prompt_cache_holds_what_the_pipeline_encodes_each_distinct_caption_once():
    pipe, captions, encoded = tiny_pipeline(), ["a wall", "a ball", "a wall", ""], []
    pipe.text_encoder_2.register_forward_pre_hook(lambda _module, ids: encoded.append(ids))
    cache = precompute_prompt_cache_cpu_then_to_gpu(pipe, captions, "cpu", torch.float64, 12)
    assert list(cache) == ["a wall", "a ball", ""]
    assert len(encoded) == 3
    for caption, found in cache.items():
        expected, pooled, _ = pipe.encode_prompt(caption, caption, max_sequence_length=12)
        assert torch.equal(found.prompt_embeds, expected[0].double())
        assert torch.equal(found.pooled_prompt_embeds, pooled[0].double())


def test_only_embeddings_travel_to_the_device_and_77_tokens_are_read_by_default():
    pipe = tiny_pipeline()
    (found,) = precompute_prompt_cache_cpu_then_to_gpu(pipe, ["a wall"], "meta", torch.bfloat16).values()
    assert (found.prompt_embeds.device.type, found.prompt_embeds.dtype) == ("meta", torch.bfloat16)
    assert found.prompt_embeds.shape[0] == 77
    encoders = (pipe.text_encoder, pipe.text_encoder_2)
    assert {parameter.device.type for encoder in encoders for parameter in encoder.parameters()} == {"cpu"}
