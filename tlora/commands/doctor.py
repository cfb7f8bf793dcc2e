"""`tlora doctor`: whether training can start here and what it will cost, in seconds, before a weight is loaded.

What takes torch or transformers with it is imported where it is used: `tlora --help` passes here.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlora.commands.config_options import add_config_options, prepare, say
from tlora.errors import SettingsError, TloraError
from tlora.flux.files import hub_access, hub_folder, is_distilled, read_shape, require_base
from tlora.flux.spec import ModelSpec
from tlora.metadata.sample_settings import SampleSettings
from tlora.pictures.files import list_pictures, mask_path, read_caption
from tlora.pictures.views import ViewSettings
from tlora.runtime.disk import require_free_space
from tlora.runtime.remedies import CONFIG, PIPELINE, explain
from tlora.runtime.settings import field_names, parse_settings, read_mapping

if TYPE_CHECKING:
    from tlora.training.memory_advice import Keys, MemoryPlan
    from tlora.training.settings import TrainingSettings

MOST_GB = 1e6
SERVED = Path(".state/serve/addresses")  # where `make serve` leaves word of itself
OUTPUT_BYTES = 1e9  # checkpoints and states of a large adapter
_PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "safetensors")
LARGEST_ON_CPU = 1e9  # weights of a base that a CPU trains in less than weeks
USUAL_SHARE = 0.5  # of the rate of a large product, that an estimate expects a training step to reach
RECOMPUTED = 4 / 3  # the work of a step that computes every block again
ALIKE = 0.7  # a step of a former run tells of one that is at least so like it in work
_PACED = ("train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "compile")  # of a pace, beside its size
_FEW_STEPS = 20  # of a former run, its last ones: the first are slower


@dataclass(frozen=True)
class _Subject:
    """What is looked at, from params.yaml or from a flat configuration."""

    model: ModelSpec
    training: "TrainingSettings"
    targets: tuple[str, ...]
    precision: str
    resolution: int
    text_tokens: int
    data: Path
    outputs: Path
    log: Path
    keys: "Keys"
    sample: SampleSettings


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_config_options(parser, required=False)
    parser.add_argument("--card", type=float, metavar="GB", help="also say what to set for a card of so much memory")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the pipeline's, where no --config is given")


def run(options: argparse.Namespace) -> None:
    """Print a line for every check and exit with 1 if one failed."""
    prepare(options)
    if options.card is not None and not 0 < options.card < MOST_GB:
        raise SettingsError(f"--card must be positive{' and below a million' * (options.card > 0)}, got {options.card:g}")
    subject = _from_flat(options.config) if options.config else _from_params(options.params)
    failed = False
    for check in (_versions, _base, _device, _disk, _data, _memory, partial(_preset, card=options.card), _time, _drawing):
        try:
            for line in check(subject):
                say(line)
        except TloraError as error:
            failed = True
            say(f"error: {explain(error, CONFIG if options.config else PIPELINE)}")
    if not options.config:
        stages, servers = _say_of_all_stages(options.params), _say_of_servers()
        failed = failed or not (stages and servers)
    if failed:
        sys.exit(1)


def costs_of(params: Path, card: float | None = None) -> Iterator[str]:
    """Yield what training by a parameter file takes: a line of memory, one of time, and with a card what to set for it.

    Args:
        params: The pipeline's parameter file.
        card: Its memory in GB; None for the one that is here.

    Raises:
        TloraError: If a setting is wrong or the base is not here.
    """
    subject = _from_params(params)
    for check in (_memory, _time, partial(_preset, card=card)):
        yield from check(subject)


def _from_params(path: Path) -> _Subject:
    from tlora.pictures.tokens import TextSettings
    from tlora.training.memory_advice import PARAMS_KEYS
    from tlora.training.settings import TrainingSettings

    params = read_mapping(path, "a mapping of sections", ": give --config FILE.yaml, or run it where params.yaml is")

    def section(name: str) -> dict[str, Any]:
        if not isinstance(params.get(name), dict):
            raise SettingsError(f"{path}: section {name!r} is missing or is not a mapping")
        return params[name]

    train, evaluate = section("train"), section("evaluate")
    known, drawn = field_names(TrainingSettings), field_names(SampleSettings)
    return _Subject(
        parse_settings(ModelSpec, section("model"), f"{path}: model"),
        parse_settings(TrainingSettings, {k: v for k, v in train.items() if k in known}, f"{path}: train"),
        tuple(train.get("target_modules", ())),
        str(train.get("mixed_precision", "no")),
        parse_settings(ViewSettings, section("cache_latents"), f"{path}: cache_latents").resolution,
        parse_settings(TextSettings, section("cache_prompts"), f"{path}: cache_prompts").max_sequence_length,
        Path("data/images"),
        Path(),
        Path("reports/train/log.jsonl"),
        PARAMS_KEYS,
        parse_settings(SampleSettings, {k: v for k, v in evaluate.items() if k in drawn}, f"{path}: evaluate", complete=False),
    )


def _from_flat(path: Path) -> _Subject:
    from tlora.commands.flat_config import read_flat_config
    from tlora.training.memory_advice import FLAT_KEYS

    config = read_flat_config(path)
    output = Path(config.output_dir)
    return _Subject(
        config.model(),
        config.training(),
        config.target_modules,
        config.mixed_precision,
        config.resolution,
        config.max_sequence_length,
        Path(config.train_data_dir),
        output,
        output / "log.jsonl",
        FLAT_KEYS,
        config.sample(),
    )


def _versions(_subject: _Subject) -> Iterator[str]:
    yield f"versions: {', '.join(f'{name} {version(name)}' for name in _PACKAGES)}"


def _say_of_all_stages(params: Path) -> bool:
    """Ask the pipeline itself whether a stage of it would refuse what is set; say so, and return whether none would."""
    command = [sys.executable, "-m", "tasks.check_settings", "--params", str(params)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    said = (answer.stderr or answer.stdout).strip().splitlines() or [f"{params}: cannot be checked"]
    say(said[-1].replace("settings: error: ", "error: "))
    return answer.returncode == 0


def _say_of_servers() -> bool:
    """Let what is served here prove itself, a line each; return whether nothing of it fails."""
    if not os.environ.get("PREFECT_API_URL") and not SERVED.exists():
        say("served: nothing; 'make serve' starts scheduler, workers and MLflow, and 'make check' lets them prove themselves")
        return True
    answer = subprocess.run([sys.executable, "-m", "flows.check"], capture_output=True, text=True, check=False)
    for line in answer.stdout.splitlines() or [f"error: {(answer.stderr.splitlines() or ['no answer'])[-1]}"]:
        say(f"served: {line}")
    return answer.returncode == 0


def _base(subject: _Subject) -> Iterator[str]:
    require_base(subject.model)
    yield f"base model: {subject.model.path} {hub_access(subject.model)}"


def _device(subject: _Subject) -> Iterator[str]:
    import torch

    if torch.cuda.is_available() and subject.model.device != "cpu":
        card = torch.cuda.get_device_properties(0)
        yield f"device: {card.name}, {card.total_memory / 1e9:.3g} GB"
        return
    why = "no GPU here" if not torch.cuda.is_available() else "model.device is cpu"
    yield f"device: {why}: everything runs on the CPU"
    weights = read_shape(subject.model).parameters
    if weights > LARGEST_ON_CPU:
        yield f"warning: {subject.model.path} has {weights / 1e9:.3g} billion weights, too many to train on a CPU: use a GPU"


def _disk(subject: _Subject) -> Iterator[str]:
    for what, folder in (("hub cache (below HF_HOME)", hub_folder()), ("outputs", subject.outputs.absolute())):
        existing = next(p for p in (folder, *folder.parents) if p.exists())
        yield f"disk: {shutil.disk_usage(existing).free / 1e9:.1f} GB free for {what}, {folder}"
    require_free_space(subject.outputs.absolute(), OUTPUT_BYTES, "free some for checkpoints and states")


def _data(subject: _Subject) -> Iterator[str]:
    pictures = list_pictures(subject.data)
    silent = [path.name for path in pictures if not read_caption(path)]
    masks = sum(mask_path(path) is not None for path in pictures)
    yield f"data: {len(pictures)} pictures in {subject.data}, {len(silent)} without a caption, {masks} with a loss mask"
    if silent:
        yield f"warning: no caption for {silent[0]}: it is trained with an empty one"


def _memory(subject: _Subject) -> Iterator[str]:
    import torch

    from tlora.training.peak_memory import free_bytes

    device = torch.device("cuda" if _on_gpu(subject) else "cpu")
    yield f"{_plan(subject, free_bytes(device)).line()} ({device})"


def _preset(subject: _Subject, card: float | None) -> Iterator[str]:
    """Say what to set for the card that is named, or else for the one that is here."""
    import torch

    from tlora.commands.presets import choose_preset

    if card is None and not torch.cuda.is_available():
        return
    size = torch.cuda.get_device_properties(0).total_memory if card is None else card * 1e9
    preset = choose_preset(_plan(subject, size), subject.resolution)
    if preset is None:
        yield f"card: {size / 1e9:.3g} GB are too few for this base model, whatever is set"
        return
    yield f"card: {preset.reason()}; about {preset.plan.estimate()} of {size / 1e9:.3g} GB, estimated and not measured; set"
    yield from (f"  {line}" for line in preset.lines())


def _plan(subject: _Subject, available: float) -> "MemoryPlan":
    from tlora.flux.latents import PATCH
    from tlora.training.memory_advice import MemoryPlan
    from tlora.training.memory_estimate import Workload

    shape = read_shape(subject.model)
    multiple = shape.pixels_per_latent * PATCH
    if subject.resolution % multiple:
        raise SettingsError(f"resolution must be a multiple of {multiple} for this base model, got {subject.resolution}")
    tokens = (subject.resolution // multiple) ** 2
    load = Workload(tokens, subject.text_tokens, subject.model.dtype, subject.precision, subject.model.quantisation)
    return MemoryPlan(shape, subject.training, subject.targets, load, available, subject.keys)


def _time(subject: _Subject) -> Iterator[str]:
    loop, plan = subject.training.loop, _plan(subject, 0.0)
    samples = loop.train_batch_size * loop.gradient_accumulation_steps
    flops = samples * plan.shape.training_flops(plan.load.image_tokens, plan.load.text_tokens)
    seconds = _measured_seconds(subject, flops)
    how = "as the last run measured them"
    if seconds is None:
        seconds, how = _estimated_seconds(subject, flops), "estimated and not measured"
    hours = loop.max_train_steps * seconds / 3600
    yield f"time: {loop.max_train_steps} steps of {seconds:.2f} s, {how}: {hours:.2f} hours of the device"


def _drawing(subject: _Subject) -> Iterator[str]:
    from tlora.flux.latents import PATCH

    shape, sample = read_shape(subject.model), subject.sample
    side = shape.pixels_per_latent * PATCH
    twice = shape.family.draws_twice and sample.guidance_scale > 1 and not is_distilled(subject.model)
    forward = shape.drawing_flops((sample.width // side) * (sample.height // side), subject.text_tokens)
    seconds = sample.num_inference_steps * (1 + twice) * forward / _usual_rate(subject)
    steps = f"{sample.num_inference_steps} steps{' of two forwards, for guidance' if twice else ''}"
    yield f"drawing: {sample.width} x {sample.height} in {steps}: {seconds:.2g} s a picture, estimated and not measured"


def _measured_seconds(subject: _Subject, flops: float) -> float | None:
    """Return a step's time in the last run, if base, size, batch and device are the same, and a step's work about as much."""
    import torch

    from tlora.training.mfu import device_name

    device, loop = torch.device("cuda" if _on_gpu(subject) else "cpu"), subject.training.loop
    try:
        lines = subject.log.read_text(encoding="utf-8").splitlines()[-_FEW_STEPS:]
        steps = [json.loads(line) for line in lines]
        told = json.loads(subject.log.with_name("run.json").read_text(encoding="utf-8"))
        seconds = statistics.median(float(step["seconds"]) for step in steps)
        work = statistics.median(float(step["seconds"]) * float(step["mfu"]) for step in steps) * float(told["matmul_rate"])
        before = told["params"]["train"]["training"]["loop"]
        same = told["params"]["model"]["path"] == subject.model.path and ALIKE < work / flops < 1 / ALIKE
        same = same and told["device"] == device_name(device) and told["image_tokens"] == _plan(subject, 0.0).load.image_tokens
        same = same and all(before[name] == getattr(loop, name) for name in _PACED)
    except (OSError, ValueError, KeyError, TypeError):  # no run yet, or a log that was cut off: nothing is known
        return None
    return seconds if same else None


def _on_gpu(subject: _Subject) -> bool:
    import torch

    return torch.cuda.is_available() and subject.model.device != "cpu"


def _estimated_seconds(subject: _Subject, flops: float) -> float:
    more = RECOMPUTED if subject.training.loop.gradient_checkpointing else 1.0
    return more * flops / _usual_rate(subject)


def _usual_rate(subject: _Subject) -> float:
    """Return the FLOP/s that work is expected to reach here."""
    import torch

    from tlora.training.mfu import matmul_rate

    on_gpu = _on_gpu(subject)
    return USUAL_SHARE * matmul_rate(torch.device("cuda" if on_gpu else "cpu"), torch.bfloat16 if on_gpu else torch.float32)
