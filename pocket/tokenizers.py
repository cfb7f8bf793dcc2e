"""Word-level tokenizers in the two formats that FLUX uses: CLIP's byte-pair merges and T5's unigram pieces.

Every known word is one token in both, everything else falls back to characters. CLIP lowers case, T5 keeps it, so
captions are lower case.
"""

import string
from itertools import pairwise

from transformers import CLIPTokenizer, T5Tokenizer

from pocket.captions import RARE_WORDS, WORDS

CLIP_LENGTH = 32
T5_LENGTH = 77
_CHARACTERS = string.printable[:94]


def learn_word(pieces: list[str], merges: list[tuple[str, str]], vocabulary: list[str]) -> None:
    """Add the merges, and what they make, by which a word of these pieces becomes a single token."""
    while len(pieces) > 1:
        ranks = [merges.index(pair) if pair in merges else len(merges) for pair in pairwise(pieces)]
        best = min(range(len(ranks)), key=ranks.__getitem__)
        if ranks[best] == len(merges):
            merges.append((pieces[best], pieces[best + 1]))
        pieces[best : best + 2] = [pieces[best] + pieces[best + 1]]
        if pieces[best] not in vocabulary:
            vocabulary.append(pieces[best])


def build_clip_tokenizer() -> CLIPTokenizer:
    """Return the CLIP tokenizer: merges are added until each known word is a single token."""
    merges: list[tuple[str, str]] = []
    vocabulary = [*_CHARACTERS, *(c + "</w>" for c in _CHARACTERS)]
    for word in (*WORDS, *RARE_WORDS):
        learn_word([*word[:-1], word[-1] + "</w>"], merges, vocabulary)
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    ids = {token: i for i, token in enumerate(vocabulary)}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=CLIP_LENGTH)


def build_t5_tokenizer() -> T5Tokenizer:
    """Return the T5 tokenizer; no sentinels, and `<unk>` at the place where T5 expects it."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    pieces += [("▁" + word, -2.0) for word in (*WORDS, *RARE_WORDS)]
    pieces += [(c, -8.0) for c in _CHARACTERS]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=T5_LENGTH)
