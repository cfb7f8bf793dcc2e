"""What shapes a training run, gathered from the settings of its parts, and the contradictions between them."""

import math
from dataclasses import dataclass, field

from tlora.flux.noise import NoiseSettings
from tlora.metadata.config import TLoRAConfig
from tlora.runtime.ranges import require_seed, require_whole
from tlora.training.optimizer import OptimizerSettings


@dataclass(frozen=True)
class LoopSettings:
    """How long and on how much at a time.

    Args:
        max_train_steps: Optimizer steps of the whole run.
        train_batch_size: Samples of one micro-step on one device.
        gradient_accumulation_steps: Micro-steps of one optimizer step.
        seed: Seed of everything random.
        gradient_checkpointing: Recompute activations in backward: less memory, more time. True recomputes every block (half as
            long again), n every n-th one, False none.
        compile: Compile the blocks with torch.compile.
        caption_dropout: Share of samples trained with an empty caption, 0 to below 1.
        freeze_masked_ranks: Leave ranks that no sample of a step used untouched by momentum and decay. Off is the paper's way.
        ema_decay: Decay of a running average of the adapter, which is then what is saved; 0 keeps none.
    """

    max_train_steps: int
    seed: int = 0
    train_batch_size: int = 1
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool | int = True
    compile: bool = False
    caption_dropout: float = 0.0
    freeze_masked_ranks: bool = False
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (
            ("max_train_steps", self.max_train_steps),
            ("train_batch_size", self.train_batch_size),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps),
        ):
            require_whole(name, value)
        if self.gradient_checkpointing < 0:
            raise ValueError(
                f"gradient_checkpointing must be true, false or a number of blocks, got {self.gradient_checkpointing}"
            )
        require_seed("seed", self.seed)
        for name, share in (("caption_dropout", self.caption_dropout), ("ema_decay", self.ema_decay)):
            if not 0 <= share < 1:
                raise ValueError(f"{name} must be in [0, 1), got {share}")

    @property
    def recompute_every(self) -> int:
        """Of how many blocks one is recomputed in backward; 0: none is."""
        return int(self.gradient_checkpointing)


@dataclass(frozen=True)
class PreserveSettings:
    """How strongly the base's own output is kept where the trigger word is not asked for.

    Args:
        preserve: Weight of the difference to the base's output under the caption with the class word, against the loss on the
            pictures; 0 is off.
        preserve_share: Share of the samples that it is taken of, evenly spread over all steps; the term is scaled up by as much.
            Each costs a forward and a backward more, and a forward of the base.

    Source:
        Loss on what a model without the adapter gives for the class in place of the word: prior preservation, DreamBooth
        (arXiv:2208.12242), section 3.2, with the base's output in the place of drawn pictures; as "differential output
        preservation" in ostris/ai-toolkit (`diff_output_preservation`).
    """

    preserve: float = 0.0
    preserve_share: float = 0.25

    def __post_init__(self) -> None:
        if not 0 <= self.preserve < math.inf:
            raise ValueError(f"preserve must not be negative, and finite, got {self.preserve}")
        if not 0 < self.preserve_share <= 1:
            raise ValueError(f"preserve_share must be above 0 and at most 1, got {self.preserve_share}")

    @property
    def is_on(self) -> bool:
        """Whether anything is kept so."""
        return self.preserve > 0

    def takes(self, sample: int) -> bool:
        """Whether a sample, numbered over all steps of the run, is among those that it is taken of."""
        return self.is_on and int((sample + 1) * self.preserve_share) > int(sample * self.preserve_share)

    def most_of(self, batch: int) -> int:
        """Return how many samples of a batch it is taken of at the most."""
        return math.ceil(batch * self.preserve_share) if self.is_on else 0


@dataclass(frozen=True)
class PriorSettings:
    """How much of what is trained on are prior pictures: of other things, the base's own or a folder's.

    Args:
        prior_share: Share of the samples, evenly spread over all steps; 0 is off.
        prior_loss_weight: What their loss counts against that of the pictures.

    Source:
        Class-specific prior preservation, DreamBooth (arXiv:2208.12242), section 3.2, with a share of the batch in the place of a
        second batch, as regularisation pictures in kohya-ss/sd-scripts (`prior_loss_weight`).
    """

    prior_share: float = 0.0
    prior_loss_weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.prior_share < 1:
            raise ValueError(f"prior_share must be in [0, 1), got {self.prior_share}")
        if not 0 < self.prior_loss_weight < math.inf:
            raise ValueError(f"prior_loss_weight must be positive and finite, got {self.prior_loss_weight}")

    @property
    def is_on(self) -> bool:
        """Whether any are mixed in."""
        return self.prior_share > 0


def require_checkpointing(every: int, steps: int) -> None:
    """Refuse steps between checkpoints that leave none to choose from.

    Raises:
        ValueError: Naming both.
    """
    require_whole("checkpointing_steps", every)
    if every > steps:
        raise ValueError(
            f"checkpointing_steps ({every}) is more than max_train_steps ({steps}): there would be no checkpoint to choose from"
        )


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that shapes a run."""

    adapter: TLoRAConfig
    noise: NoiseSettings
    optimizer: OptimizerSettings
    loop: LoopSettings
    preservation: PreserveSettings = field(default_factory=PreserveSettings)
    prior: PriorSettings = field(default_factory=PriorSettings)

    def __post_init__(self) -> None:
        if self.loop.freeze_masked_ranks and self.optimizer.optimizer == "adamw8bit":
            raise ValueError(
                "freeze_masked_ranks cannot keep single ranks of adamw8bit's moments, which are quantised in blocks across ranks:"
                " use adamw or prodigy"
            )
        if self.adapter.enable_rank_masking and self.adapter.min_rank == self.adapter.rank:
            raise ValueError(
                f"min_rank equals rank ({self.adapter.rank}), so enable_rank_masking masks nothing:"
                " lower min_rank, or set enable_rank_masking to false for a plain LoRA"
            )
