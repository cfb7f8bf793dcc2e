"""Stage: encode every distinct caption once, and apart from them every evaluation prompt, on the CPU.

Two outputs, so that a changed evaluation prompt changes only the second, and nothing is trained again for it. Encoded captions
are kept by content in `.state/cache`, so adding one caption encodes one.
"""

from pathlib import Path

from tasks.running.state_folder import state_folder
from tlora.flux.cached import assemble
from tlora.flux.files import read_family, require_base
from tlora.flux.spec import ModelSpec
from tlora.metadata.concept import read_concept
from tlora.pictures.manifest import read_manifest
from tlora.pictures.tokens import TextSettings
from tlora.text import keep_embeddings


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
    store = state_folder("cache", "prompts")
    files, encoded = keep_embeddings(model, everything, settings.max_sequence_length, store, "cache_prompts")
    print(f"cache_prompts: {len(files)} distinct captions and prompts, {encoded} encoded now", flush=True)
    own = [{"caption": kept, "file": files[kept], "of": text} for text, kept in of_class.items()]
    for folder, texts, class_entries in ((captions, trained, own), (evaluation, evaluated, None)):
        entries = [{"caption": text, "file": files[text]} for text in sorted(set(texts))]
        assemble(folder, store, entries, {"max_sequence_length": settings.max_sequence_length}, class_entries)
