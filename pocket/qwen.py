"""The pocket FLUX.2's text encoder: a small Qwen3 with its tokenizer and chat template, taught to continue captions.

FLUX.2 [klein] stacks the hidden states after layers 9, 18 and 27 of it, so it has 28 layers, narrow ones. It is trained as
a language model and then left alone: what its hidden states mean is for the transformer to learn.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from transformers import Qwen2TokenizerFast, Qwen3Config, Qwen3ForCausalLM

from pocket.captions import RARE_WORDS, WORDS, training_caption
from pocket.loop import Draw, Learner, Recipe, train
from pocket.pictures import VALIDATION_PICTURES, scene_of
from pocket.tokenizers import learn_word

WIDTH = 64
LAYERS = 28
TAKEN_LAYERS = (9, 18, 27)  # what the pipeline stacks
TEXT_LENGTH = 48  # tokens, template included
_BATCH = 64
_SHORT = 24  # every caption with its template fits
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }} {{ message.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant"
    "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}{% endif %}"
)


def build_qwen_tokenizer() -> Qwen2TokenizerFast:
    """Return a byte-level BPE tokenizer in which every known word with the space before it is a single token."""
    merges: list[tuple[str, str]] = []
    vocabulary = sorted(ByteLevel.alphabet())
    for word in ("user", "assistant", *(f"Ġ{word}" for word in (*WORDS, *RARE_WORDS))):
        learn_word(list(word), merges, vocabulary)
    tokenizer = Qwen2TokenizerFast(
        vocab={token: i for i, token in enumerate(vocabulary)},
        merges=merges,
        extra_special_tokens=list(_SPECIAL[1:]),
        model_max_length=TEXT_LENGTH,
        padding_side="right",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_qwen(tokenizer: Qwen2TokenizerFast) -> Qwen3ForCausalLM:
    """Return an untrained Qwen3; embeddings start at 1, so that hidden states have about that size."""
    torch.manual_seed(6)
    qwen = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=512,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.05,
            use_cache=False,
        )
    )
    with torch.no_grad():
        qwen.model.embed_tokens.weight.normal_()
    return qwen


def tokens(tokenizer: Qwen2TokenizerFast, captions: list[str], length: int) -> dict[str, Tensor]:
    """Put captions into the chat template as `Flux2KleinPipeline` does, and return ids and mask, (batch, length) each."""
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": caption}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        for caption in captions
    ]
    found = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    return {"input_ids": found.input_ids, "attention_mask": found.attention_mask}


def train_qwen(tokenizer: Qwen2TokenizerFast, pictures: int, steps: int, folder: Path) -> Qwen3ForCausalLM:
    """Teach Qwen3 to continue captions of the first `pictures` scenes, and freeze it."""
    qwen = build_qwen(tokenizer)

    def loss_at(step: int, draw: Draw) -> Tensor:
        chosen = draw.numpy.integers(VALIDATION_PICTURES, pictures, _BATCH)
        batch = tokens(tokenizer, [training_caption(scene_of(int(i)), draw.numpy) for i in chosen], _SHORT)
        logits = qwen(**batch).logits[:, :-1]
        wanted = batch["input_ids"][:, 1:].masked_fill(batch["attention_mask"][:, 1:] == 0, -100)
        return F.cross_entropy(logits.flatten(0, 1), wanted.flatten())

    train(Learner([qwen], Recipe("qwen", 7, steps, 2e-3, 0.01, 0.9, warmup=20, muon=True)), loss_at, folder)
    return qwen.eval().requires_grad_(False)


class Texts:
    """Hidden states of captions as the pipeline stacks them, each distinct caption encoded once."""

    def __init__(self, tokenizer: Qwen2TokenizerFast, qwen: nn.Module) -> None:
        self.tokenizer, self.qwen = tokenizer, qwen
        self._kept: dict[str, Tensor] = {}

    def __call__(self, captions: list[str], length: int) -> Tensor:
        """Return (batch, length, 3 x width).

        Causal attention and padding on the right: the first tokens do not depend on how many follow, so a shorter text is cut
        from the longest.
        """
        new = sorted({caption for caption in captions if caption not in self._kept})
        if new:
            with torch.no_grad():
                states = self.qwen(**tokens(self.tokenizer, new, TEXT_LENGTH), output_hidden_states=True).hidden_states
                stacked = torch.stack([states[k] for k in TAKEN_LAYERS], dim=2).flatten(2)
            self._kept |= dict(zip(new, stacked.half(), strict=True))
        return torch.stack([self._kept[caption][:length] for caption in captions]).float()


__all__ = ["TAKEN_LAYERS", "TEXT_LENGTH", "WIDTH", "Texts", "build_qwen", "build_qwen_tokenizer", "tokens", "train_qwen"]
