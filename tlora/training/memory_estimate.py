"""How much memory a training run needs, from the shapes alone: known before a weight is loaded.

What autograd keeps was read off diffusers' blocks and checked against measured peaks (benchmarks/memory.py). Frozen Linears
keep nothing but their weight, so a block keeps what its norms, attention and GELU or SwiGLU need, and the inputs of the
layers that are adapted. Lengths are counted in widths of the model, per token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tlora.flux.linears import BlockLinear, BlockList
from tlora.flux.spec import FluxShape, Quantisation
from tlora.training.settings import TrainingSettings

QUANTISATIONS: tuple[Quantisation, ...] = ("none", "int8", "nf4")  # the finest first
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_NF4_BYTES = 1 / 2 + 1 / 64 + 4 / (64 * 256)  # a weight, a scale of a byte for 64 of them, and one of four for 256 scales
_NF4_TABLES = 4 * (256 + 16 + 1)  # of each layer
_MOMENT_BYTES = {"adamw": 8, "adamw8bit": 2, "prodigy": 16}  # a parameter; Prodigy also keeps where it began, and a running sum
_NORMS = {"image": 2, "text": 2, "all": 1}
_RUNTIME = 30e6  # the libraries' code and workspaces
GB = 1e9


@dataclass(frozen=True)
class Workload:
    """What is trained on at once, and how it is held.

    Args:
        image_tokens: Packed tokens of one sample's picture, the largest that there is.
        text_tokens: Tokens of one sample's caption, padded.
        dtype: Type of the frozen weights.
        mixed_precision: `no` or `bf16`.
        quantisation: How the Linears of the blocks are held.
    """

    image_tokens: int
    text_tokens: int
    dtype: str
    mixed_precision: str
    quantisation: Quantisation = "none"


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes above what the process holds before the model is loaded, by what they are for."""

    weights: float
    adapter: float
    activations: float
    runtime: float = _RUNTIME

    @property
    def total(self) -> float:
        """The peak, in bytes."""
        return self.weights + self.adapter + self.activations + self.runtime

    def __str__(self) -> str:
        parts = f"weights {self.weights / GB:.2f}, adapter and optimizer {self.adapter / GB:.2f}"
        return f"{self.total / GB:.2f} GB ({parts}, activations {self.activations / GB:.2f})"


def estimate_memory(shape: FluxShape, settings: TrainingSettings, targets: Sequence[str], load: Workload) -> MemoryEstimate:
    """Return the expected peak of training.

    Args:
        shape: The base model's.
        settings: Everything that shapes the run.
        targets: Suffixes of the Linears to adapt.
        load: Sizes and types.
    """
    weights = weight_bytes(shape, load.dtype, load.quantisation)
    if load.quantisation != "none":
        weights += shape.family.widest * shape.width**2 * _activation_size(load)  # restored while it computes
    elif load.dtype == "float32" and load.mixed_precision == "bf16":
        weights *= 1.5  # autocast's copies of frozen weights, which backward needs
    return MemoryEstimate(weights, _adapter_bytes(shape, settings, targets), _activation_bytes(shape, settings, targets, load))


def weight_bytes(shape: FluxShape, dtype: str, quantisation: Quantisation) -> float:
    """Return what the frozen weights take, with the scales of quantised ones."""
    if quantisation == "none":
        return float(shape.parameters * _BYTES[dtype])
    linears = [row for count, block in _block_kinds(shape) for row in count * block.linears]
    weights, rows = (
        sum(row.inside * row.outside for row in linears) * shape.width**2,
        sum(row.outside for row in linears) * shape.width,
    )
    held = weights + rows * _BYTES[dtype] if quantisation == "int8" else weights * _NF4_BYTES + len(linears) * _NF4_TABLES
    return held + (shape.parameters - weights) * _BYTES[dtype]


def adapter_parameters(shape: FluxShape, settings: TrainingSettings, targets: Sequence[str]) -> int:
    """Return how many numbers are trained."""
    rank = settings.adapter.rank
    own = rank if settings.adapter.trainer_type == "ortho_lora" else 0
    return sum(
        count * (rank * shape.width * (target.inside + target.outside) + own)
        for count, block in _block_kinds(shape)
        for target in _chosen(block, targets)
    )


def _adapter_bytes(shape: FluxShape, settings: TrainingSettings, targets: Sequence[str]) -> float:
    each = 4 + 4 + _MOMENT_BYTES[settings.optimizer.optimizer]  # the parameter, its gradient, its moments
    each += 4 * (settings.adapter.trainer_type == "ortho_lora")  # the frozen initial copy
    each += 4 * (settings.loop.ema_decay > 0)
    return adapter_parameters(shape, settings, targets) * each


def _activation_bytes(shape: FluxShape, settings: TrainingSettings, targets: Sequence[str], load: Workload) -> float:
    tokens = {"image": load.image_tokens, "text": load.text_tokens, "all": load.image_tokens + load.text_tokens}
    (double_list, single_list), (in_double, in_single) = shape.family.blocks, shape.family.kept
    double = _kept_by_block(double_list, {"image": in_double, "text": in_double}, settings, targets, load)
    single = _kept_by_block(single_list, {"all": in_single}, settings, targets, load)
    of_double, of_single = (sum(tokens[stream] * kept for stream, kept in block.items()) for block in (double, single))
    blocks = [of_double] * shape.double_blocks + [of_single] * shape.single_blocks
    widths = _most_held(blocks, tokens["all"], settings.loop.recompute_every) + shape.family.passing * tokens["all"]
    batch = settings.loop.train_batch_size
    rows = batch + settings.preservation.most_of(batch)  # those that are preserved are computed a second time
    return widths * shape.width * rows * _activation_size(load)


def _most_held(blocks: Sequence[float], entry: float, recompute_every: int) -> float:
    """Return the most that blocks hold at once, of what each keeps; of a recomputed one all but its entry is there in turns."""
    held = most = 0.0
    for number, kept in enumerate(blocks):  # when backward reaches a block, all before it are still held
        recomputed = recompute_every > 0 and number % recompute_every == 0
        most = max(most, held + (entry if recomputed else 0) + kept)
        held += entry if recomputed else kept
    return most


def _kept_by_block(
    block: BlockList, streams: Mapping[str, int], settings: TrainingSettings, targets: Sequence[str], load: Workload
) -> dict[str, float]:
    """Return what autograd keeps of each stream, in widths per token."""
    autocast = load.mixed_precision == "bf16"
    kept = {stream: float(held + _NORMS[stream] * autocast) for stream, held in streams.items()}  # autocast's norms keep float32
    inputs: set[tuple[str, int]] = set()
    for target in _chosen(block, targets):
        own_copy = autocast or settings.adapter.dropout > 0
        if own_copy:
            kept[target.stream] += target.inside * (1.5 if settings.adapter.dropout else 1)
        elif target.kept not in inputs:
            kept[target.stream] += target.kept[1]
            inputs.add(target.kept)
    return kept


def _activation_size(load: Workload) -> int:
    return 2 if load.mixed_precision == "bf16" else _BYTES[load.dtype]


def _block_kinds(shape: FluxShape) -> tuple[tuple[int, BlockList], ...]:
    double, single = shape.family.blocks
    return (shape.double_blocks, double), (shape.single_blocks, single)


def _chosen(block: BlockList, suffixes: Sequence[str]) -> list[BlockLinear]:
    return [row for row in block.linears if any(row.name == s or row.name.endswith(f".{s}") for s in suffixes)]
