"""Stage: encode every distinct caption once, and apart from them every evaluation prompt, on the CPU.

Two outputs, so that a changed evaluation prompt changes only the second, and nothing is trained again for it. Encoded captions
are kept by content in `.state/cache`, so adding one caption encodes one.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from tasks.running.state_folder import state_folder
from tlora.flux.cached import assemble, content_key, item_file, write_item
from tlora.flux.files import base_revision, read_family, require_base
from tlora.flux.spec import ModelSpec
from tlora.metadata.concept import read_concept
from tlora.pictures.manifest import read_manifest
from tlora.pictures.tokens import TextSettings
from tlora.runtime.progress import Progress
from tlora.text import Encoders, encode_captions, load_text_encoders


def cache_prompts(
    settings: TextSettings,
    model: ModelSpec,
    *,
    manifest: Path,
    held_out: Path,
    concept: Path,
    captions: Path,
    evaluation: Path,
) -> None:
    """Encode captions and evaluation prompts.

    Args:
        settings: Section `cache_prompts`.
        model: Section `model`.
        manifest: Training pictures and captions.
        held_out: Held-out pictures and captions, encoded with the evaluation prompts.
        concept: concept.yaml, for the evaluation prompts and the class word.
        captions: Output folder, embeddings for training; the empty caption is among them, for caption dropout, and every caption
            without the trigger word, for preservation.
        evaluation: Output folder, embeddings for evaluation.
    """
    require_base(model)
    encoder = base_revision(model, "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    trained = ["", *(item.caption for item in read_manifest(manifest).items)]
    described = read_concept(concept)
    partner = [""] if read_family(model, fetch=True).draws_twice else []  # of every prompt, in drawing
    evaluated = [
        *partner,
        *described.prompts,
        *described.other_prompts,
        *(item.caption for item in read_manifest(held_out).items),
    ]
    of_class = {text: described.class_caption(text) for text in sorted(set(trained))}
    everything = [*trained, *evaluated, *of_class.values()]
    keys = {text: content_key(encoder, str(settings.max_sequence_length), text) for text in everything}
    store = state_folder("cache", "prompts")
    missing = [text for text, key in keys.items() if not (store / item_file(key)).exists()]
    if missing:
        _encode(load_text_encoders(model), missing, settings.max_sequence_length, keys, store)
    print(f"cache_prompts: {len(keys)} distinct captions and prompts, {len(missing)} encoded now", flush=True)
    own = [{"caption": kept, "file": item_file(keys[kept]), "of": text} for text, kept in of_class.items()]
    for folder, texts, class_entries in ((captions, trained, own), (evaluation, evaluated, None)):
        entries = [{"caption": text, "file": item_file(keys[text])} for text in sorted(set(texts))]
        assemble(folder, store, entries, {"max_sequence_length": settings.max_sequence_length}, class_entries)


def _encode(encoders: Encoders, texts: Sequence[str], length: int, keys: dict[str, str], store: Path) -> None:
    with Progress("cache_prompts", len(texts)) as progress:
        for text, embedding in encode_captions(encoders, texts, length):
            tensors = {"prompt_embeds": embedding.prompt_embeds, "pooled_prompt_embeds": embedding.pooled_prompt_embeds}
            write_item(store / item_file(keys[text]), tensors)
            progress.advance(json.dumps(text, ensure_ascii=False)[:40])
