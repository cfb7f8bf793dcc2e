"""A Florence-2 of a few thousand random weights, saved as the real one is: what it says is noise, how it is loaded is not."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    PreTrainedTokenizerFast,
)

_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
_VISION = {
    "depths": [1, 1],
    "patch_size": [7, 3],
    "patch_stride": [4, 2],
    "patch_padding": [3, 1],
    "patch_prenorm": [False, True],
    "embed_dim": [8, 16],
    "num_heads": [2, 2],
    "num_groups": [2, 2],
    "window_size": 2,
    "projection_dim": 16,
    "max_temporal_embeddings": 4,
    "max_position_embeddings": 8,
}
_TEXT = {
    "model_type": "bart",
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}


def save_tiny_florence(folder: Path) -> Path:
    """Save one that never ends a caption by itself, and return its folder."""
    letters = {letter: number for number, letter in enumerate([*_SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    bytes_only = Tokenizer(models.BPE(vocab=letters, merges=[], unk_token="<unk>"))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_only, extra_special_tokens={"image_token": "<image>"}, **names)
    config = Florence2Config(
        vision_config=_VISION, text_config=_TEXT | {"vocab_size": len(tokenizer)}, image_token_id=tokenizer.image_token_id
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Florence2ForConditionalGeneration(config).eval()
    model.generation_config.min_new_tokens = 20
    model.generation_config.suppress_tokens = [0, 1, 3, tokenizer.image_token_id]
    images = CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    images.image_seq_length = 17  # 4 x 4 patches and their mean
    model.save_pretrained(folder)
    Florence2Processor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder
