"""One run: an adapter of one method learns one picture, and is measured on the way."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from benchmarks.comparison.arms import ARMS, preservation_of
from benchmarks.comparison.concepts import Concept
from benchmarks.comparison.measures import CAPTION, CLASS_CAPTION, NOVEL, OTHERS
from pocket.judge import Judge
from pocket.pictures import to_tensor
from tlora.evaluation.evaluator import Evaluator, load_evaluator
from tlora.flux.cached import LatentItem
from tlora.flux.model import encode_posterior, load_scheduler, load_transformer, load_vae
from tlora.flux.noise import NoiseSettings
from tlora.flux.spec import ModelSpec
from tlora.inject import eject_tlora_from_transformer, inject_tlora_into_transformer
from tlora.sampling import Painter, SampleSettings, draw_pictures
from tlora.text import encode_captions, load_text_encoders
from tlora.training.loop import Training
from tlora.training.optimizer import OptimizerSettings
from tlora.training.settings import LoopSettings, TrainingSettings

BASE = ModelSpec("models/pocket-flux", dtype="float32", device="cpu")
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
SAMPLE = SampleSettings(64, 64, num_inference_steps=16, guidance_scale=3.5)
LEARNING_RATE, BATCH = 2e-3, 4
SEEDS_PER_PROMPT, DRAWN_AT_ONCE = 3, 9


@dataclass(frozen=True)
class Bench:
    """Everything that all runs share: base, encoded prompts, judge and evaluator."""

    painter: Painter
    prompts: dict[str, tuple[Tensor, Tensor]]
    judge: Judge
    evaluator: Evaluator

    @staticmethod
    def load() -> "Bench":
        """Load the shipped models and encode every prompt once."""
        prompts = [CAPTION, CLASS_CAPTION, *NOVEL.values(), *OTHERS.values()]
        encoded = dict(encode_captions(load_text_encoders(BASE), prompts, max_sequence_length=77))
        return Bench(
            Painter(load_transformer(BASE), load_vae(BASE), load_scheduler(BASE)),
            {caption: (e.prompt_embeds, e.pooled_prompt_embeds) for caption, e in encoded.items()},
            Judge.from_pretrained(Path("models/pocket-judge")),
            load_evaluator("models/pocket-clip"),
        )

    def read(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Return the embeddings of some prompts, stacked."""
        embeds, pooled = zip(*(self.prompts[caption] for caption in captions), strict=True)
        return torch.stack(embeds), torch.stack(pooled)

    def draw(self, seed: int) -> tuple[dict[str, list[Image.Image]], dict[str, Image.Image]]:
        """Draw the novel prompts at a few seeds each, and every one of the base's own materials once."""
        wanted = [(prompt, 1000 * seed + i) for prompt in NOVEL.values() for i in range(SEEDS_PER_PROMPT)]
        wanted += [(prompt, 1000 * seed + 500) for prompt in OTHERS.values()]
        drawn: list[Image.Image] = []
        self.painter.transformer.eval()
        for first in range(0, len(wanted), DRAWN_AT_ONCE):
            part = wanted[first : first + DRAWN_AT_ONCE]
            drawn += draw_pictures(self.painter, self.read([p for p, _ in part]), [s for _, s in part], SAMPLE)
        self.painter.transformer.train()
        rows = {c: drawn[i * SEEDS_PER_PROMPT : (i + 1) * SEEDS_PER_PROMPT] for i, c in enumerate(NOVEL)}
        return rows, dict(zip(OTHERS, drawn[len(NOVEL) * SEEDS_PER_PROMPT :], strict=True))


def learn(bench: Bench, concept: Concept, arm: str, seed: int, steps: tuple[int, ...]) -> Iterator[int]:
    """Train on the concept's one picture, yielding at each of the steps; the adapter is in place until the next one."""
    mean, std = encode_posterior(bench.painter.vae, to_tensor(concept.picture("wall", 0)[None]))
    view = LatentItem(concept.name, CAPTION, mean[0], std[0])
    adapter = ARMS[arm]
    inject_tlora_into_transformer(bench.painter.transformer, TARGETS, adapter, seed=seed)
    try:
        settings = TrainingSettings(
            adapter,
            NoiseSettings(),
            OptimizerSettings(LEARNING_RATE, lr_warmup_steps=10),
            LoopSettings(steps[-1], seed=seed, train_batch_size=BATCH, gradient_checkpointing=False),
            preservation_of(arm),
        )
        training = Training(bench.painter.transformer, settings, Accelerator(cpu=True))
        shapes, of_class = [(mean.shape[-2], mean.shape[-1])], {CAPTION: CLASS_CAPTION}
        for report in training.steps([view], shapes, lambda captions: bench.read(list(captions)), of_class):
            if report.step in steps:
                yield report.step
    finally:
        eject_tlora_from_transformer(bench.painter.transformer)
