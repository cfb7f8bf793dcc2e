"""A tiny FLUX whose adapter has moved, for the tests of whatever uses one."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.tiny_flux import Inputs, predict, tiny_transformer
from tlora.checkpoint import save_tlora_weights
from tlora.flux.noise import NoiseSettings
from tlora.inject import inject_tlora_into_transformer, tlora_parameters
from tlora.metadata.adapter import WEIGHTS_FILE, AdapterMetadata
from tlora.metadata.config import TLoRAConfig
from tlora.training.optimizer import OptimizerSettings
from tlora.training.settings import LoopSettings, TrainingSettings

CFG = TLoRAConfig(rank=4, alpha=4.0, min_rank=1)
ORTHO = TLoRAConfig(rank=4, alpha=4.0, min_rank=1, trainer_type="ortho_lora")
ATTENTION = ("to_q", "to_k", "to_v")
EVERY_SUFFIX = (
    *ATTENTION, "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "ff.net.0.proj", "ff.net.2",
    "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp", "proj_out", "norm1.linear", "norm1_context.linear", "norm.linear",
)  # fmt: skip
SMALL_RUN = TrainingSettings(
    TLoRAConfig(rank=2, alpha=2, min_rank=1),
    NoiseSettings(),
    OptimizerSettings(learning_rate=1e-3),
    LoopSettings(max_train_steps=1, train_batch_size=4, gradient_checkpointing=False),
)  # for the memory that it needs
MASKS = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])


def adapted(
    cfg: TLoRAConfig = CFG, suffixes: tuple[str, ...] = EVERY_SUFFIX, guidance: bool = True, blocks: int = 2
) -> nn.Module:
    """Return a tiny FLUX with an adapter whose every weight has moved, as training would move it."""
    transformer = tiny_transformer(guidance, blocks=blocks)
    inject_tlora_into_transformer(transformer, suffixes, cfg, leave_blocks_out=True)
    source = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in tlora_parameters(transformer):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=source))
    return transformer


def gradients(transformer: nn.Module, *losses: Tensor) -> list[Tensor]:
    """Back-propagate losses one after the other, and take the gradients of the adapter."""
    for loss in losses:
        loss.backward()
    taken = [parameter.grad for parameter in tlora_parameters(transformer)]
    transformer.zero_grad()
    return taken


def loss_of(transformer: nn.Module, inputs: Inputs, mask: Tensor) -> Tensor:
    return predict(transformer, inputs, {"sigma_mask": mask}).square().sum()


def saved(folder: Path, cfg: TLoRAConfig = CFG, suffixes: tuple[str, ...] = EVERY_SUFFIX) -> tuple[nn.Module, Path]:
    """Return an adapted transformer and the folder that holds its adapter."""
    transformer = adapted(cfg, suffixes)
    metadata = AdapterMetadata(cfg, suffixes, base="models/tiny", data_digest="d1", trigger="matbrk", step=7)
    save_tlora_weights(transformer, folder / WEIGHTS_FILE, metadata)
    return transformer, folder


def read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata of a safetensors file, unchecked, to write it again with something wrong."""
    with safe_open(file, framework="pt") as opened:
        return load_file(file), opened.metadata()
