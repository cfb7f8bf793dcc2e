"""Section `evaluate` of params.yaml: how checkpoints are drawn, measured and chosen."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from tasks.evaluate.fast_look import FastLook
from tasks.evaluate.field import Extent
from tlora.evaluation.memorisation import LossSettings
from tlora.evaluation.race import RaceSettings
from tlora.evaluation.recommendation import SelectionSettings
from tlora.flux.spec import ModelSpec
from tlora.metadata.concept import Concept
from tlora.runtime.ranges import MOST_PICTURES, require_seed, require_strength, require_whole
from tlora.sampling import SampleSettings


@dataclass(frozen=True)
class EvaluateSettings:
    """How checkpoints are measured.

    Args:
        sample: Size, steps, guidance and strength of the pictures.
        selection: The rule that picks a checkpoint.
        losses: At which noise losses are compared.
        evaluator: Folder or hub id of the CLIP that measures.
        evaluator_revision: Its commit on the hub; empty for a folder.
        dinov2: Folder or hub id of a DINOv2 for a second opinion of fidelity; empty for none.
        dinov2_revision: Its commit on the hub; empty for a folder.
        second_opinion: Whether EfficientNet-Lite0 is asked about fidelity too; it never chooses.
        preview_model: Folder or hub id of a distilled model of the base's network, for a fast look; empty for none.
        preview_revision: Its commit on the hub; empty for a folder.
        full_frame_prompts: How many prompts, from the first, show the material over the whole frame.
        seeds: Seeds per prompt.
        first_seed: The first of them.
        scales: Strengths at which the recommended checkpoint is drawn once more, at the first seed.
        batch: Most pictures drawn at once.
        racing: Whether all checkpoints are drawn to the end.
    """

    sample: SampleSettings
    selection: SelectionSettings
    losses: LossSettings
    racing: RaceSettings
    evaluator: str
    evaluator_revision: str = ""
    dinov2: str = ""
    dinov2_revision: str = ""
    second_opinion: bool = False
    preview_model: str = ""
    preview_revision: str = ""
    full_frame_prompts: int = 1
    seeds: int = 4
    first_seed: int = 1000
    scales: tuple[float, ...] = (0.5, 1.0, 1.5)
    batch: int = 8

    def __post_init__(self) -> None:
        if self.seeds < 2:
            raise ValueError(f"seeds must be at least 2 (diversity compares them), got {self.seeds}")
        require_whole("batch", self.batch)
        if self.full_frame_prompts < 0:
            raise ValueError(f"full_frame_prompts must not be negative, got {self.full_frame_prompts}")
        require_seed("first_seed", self.first_seed)
        require_whole("seeds", self.seeds, most=MOST_PICTURES)
        for scale in self.scales:
            require_strength("scales", scale)

    @property
    def all_seeds(self) -> range:
        """The seeds that every prompt is drawn with."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def shaping(self) -> dict[str, Any]:
        """What shapes pictures and losses."""
        return {"sample": dataclasses.asdict(self.sample), "losses": dataclasses.asdict(self.losses), "batch": self.batch}

    def fast_look(self, base: ModelSpec) -> FastLook | None:
        """Return what else every checkpoint is drawn on, held as the base is; None for nothing."""
        if not self.preview_model:
            return None
        model = dataclasses.replace(base, path=self.preview_model, revision=self.preview_revision)
        return FastLook.on(model, self.sample, self.batch)

    def extent(self, concept: Concept) -> Extent:
        """What is drawn of a concept, at the most."""
        return Extent(
            concept.prompts, concept.other_prompts, self.all_seeds, self.sample.lora_scale, self.scales, self.full_frame_prompts
        )
