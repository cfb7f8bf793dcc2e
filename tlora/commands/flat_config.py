"""The flat YAML configuration of `tlora train` and `tlora infer`, and what its keys mean in the library's settings.

Its keys and defaults are those that users of the first scripts have; everything behind them is the same as in the pipeline.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tlora.errors import SettingsError
from tlora.flux.noise import NoiseSettings
from tlora.flux.spec import ModelSpec, Quantisation
from tlora.metadata.config import TLoRAConfig
from tlora.pictures.tokens import TextSettings
from tlora.pictures.views import ViewSettings
from tlora.runtime.settings import parse_settings, read_mapping
from tlora.sampling import SampleSettings
from tlora.training.optimizer import OptimizerSettings
from tlora.training.settings import LoopSettings, TrainingSettings, require_checkpointing


@dataclass(frozen=True)
class FlatConfig:
    """One flat file; a missing key takes the default.

    Args:
        pretrained_model_name_or_path: Folder of a `FluxPipeline`, or its name on the hub.
        train_data_dir: Pictures with same-name .txt captions.
        output_dir: Where checkpoints go.
        resolution: Pixels on a side.
        mixed_precision: `no` (float32) or `bf16`.
        quantisation: Of the base's blocks: `none`, `int8` or `nf4`.
        lora_alpha: Default: the rank.
        leave_blocks_out: Whether `target_modules` may leave all blocks of a kind untouched.
        min_rank: Default: half the rank, rounded down, at least 1.
    """

    pretrained_model_name_or_path: str
    train_data_dir: str = ""
    output_dir: str = "outputs/flux_tlora"
    resolution: int = 512
    center_crop: bool = True
    random_flip: bool = False
    mixed_precision: Literal["no", "bf16"] = "bf16"
    quantisation: Quantisation = "none"
    max_train_steps: int = 400
    checkpointing_steps: int = 100
    train_batch_size: int = 1
    gradient_accumulation_steps: int = 1
    learning_rate: float = 5e-5
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_weight_decay: float = 0.0
    adam_epsilon: float = 1e-8
    lora_rank: int = 16
    lora_alpha: float | None = None
    lora_dropout: float = 0.0
    target_modules: tuple[str, ...] = ("to_q", "to_k", "to_v")
    leave_blocks_out: bool = False
    min_rank: int | None = None
    alpha_rank_scale: float = 1.0
    enable_rank_masking: bool = True
    trainer_type: Literal["lora", "ortho_lora"] = "lora"
    sig_type: Literal["principal", "last", "middle"] = "principal"
    max_sequence_length: int = 77
    num_inference_steps: int = 25
    guidance_scale: float = 3.5
    seed: int = 0

    def model(self) -> ModelSpec:
        """Return the base model."""
        dtype: Literal["bfloat16", "float32"] = "bfloat16" if self.mixed_precision == "bf16" else "float32"
        return ModelSpec(self.pretrained_model_name_or_path, dtype=dtype, quantisation=self.quantisation)

    def adapter(self) -> TLoRAConfig:
        """Return the adapter's shape."""
        return TLoRAConfig(
            rank=self.lora_rank,
            alpha=float(self.lora_rank) if self.lora_alpha is None else self.lora_alpha,
            dropout=self.lora_dropout,
            min_rank=max(1, self.lora_rank // 2) if self.min_rank is None else self.min_rank,
            alpha_rank_scale=self.alpha_rank_scale,
            trainer_type=self.trainer_type,
            sig_type=self.sig_type,
            enable_rank_masking=self.enable_rank_masking,
        )

    def training(self) -> TrainingSettings:
        """Return everything that shapes a run."""
        optimizer = OptimizerSettings(
            learning_rate=self.learning_rate,
            adam_beta1=self.adam_beta1,
            adam_beta2=self.adam_beta2,
            adam_weight_decay=self.adam_weight_decay,
            adam_epsilon=self.adam_epsilon,
        )
        loop = LoopSettings(
            max_train_steps=self.max_train_steps,
            seed=self.seed,
            train_batch_size=self.train_batch_size,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
        )
        return TrainingSettings(self.adapter(), NoiseSettings(), optimizer, loop)

    def views(self) -> ViewSettings:
        """Return which views of the pictures are trained on."""
        return ViewSettings(self.resolution, self.center_crop, self.random_flip)

    def sample(self) -> SampleSettings:
        """Return how pictures are drawn."""
        return SampleSettings(self.resolution, self.resolution, self.num_inference_steps, self.guidance_scale)


def read_flat_config(path: Path) -> FlatConfig:
    """Read a flat file.

    Raises:
        SettingsError: If it is missing, is not a flat mapping, or a key or value is wrong.
    """
    given = read_mapping(path, "a mapping of keys to values", "; configs/flux_tlora_material.yaml is one to copy")
    config = parse_settings(FlatConfig, given, str(path), complete=False)
    try:
        config.training(), config.views(), config.sample(), TextSettings(config.max_sequence_length)
        require_checkpointing(config.checkpointing_steps, config.max_train_steps)
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from error
    return config
