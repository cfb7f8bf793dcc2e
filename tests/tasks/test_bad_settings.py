"""A setting that cannot work is one line with its file, its key and what to write instead, before a weight is loaded.

The base model is a folder of configurations: whoever asked for its weights would fail in another way.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tasks.cache_latents.stage import cache_latents
from tasks.cache_prompts.stage import cache_prompts
from tasks.draw_prior.stage import draw_prior
from tasks.evaluate.stage import evaluate
from tasks.running.cli import run_stage
from tasks.train.stage import train
from tasks.validate.stage import validate
from tests.tasks.stage_commands import options_of
from tests.tiny_flux import tiny_pipeline_folder
from tlora.runtime.yaml_text import parse_yaml

ROOT = Path(__file__).parents[2]
STAGES: dict[str, Callable[..., None]] = {
    s.__name__: s for s in (validate, cache_prompts, cache_latents, draw_prior, train, evaluate)
}
LAYER = "transformer_blocks.0.attn.to_q"
OUTSIDE = "outside the blocks, where no sigma mask arrives"
LINES = {  # what is written into params.yaml (of the first section named, the stage) -> the rest of the line
    # Out of range
    "validate: {min_side: 0}": "min_side must be at least 1 pixel, got 0",
    "validate: {max_aspect: 0.5}": "max_aspect must be at least 1, got 0.5",
    "validate: {min_sharpness: -1}": "min_sharpness must be in 0..1, got -1.0",
    "validate: {near_copy_bits: 65}": "need 0 <= near_copy_bits <= 32, got 65",
    "cache_prompts: {max_sequence_length: 0}": "max_sequence_length must be in 1..512, got 0",
    "cache_latents: {views_per_picture: 0}": "views_per_picture must be in 1..1000, got 0",
    "cache_latents: {min_scale: 0}": "need 0 < min_scale <= max_scale <= 1, got 0.0 and 1.0",
    "cache_latents: {max_scale: 2}": "need 0 < min_scale <= max_scale <= 1, got 0.25 and 2.0",
    "cache_latents: {resolution: 0}": "resolution must be at least 16 pixels, got 0",
    "train: {rank: 0}": "need 1 <= min_rank <= rank, got 8 and 0",
    "train: {min_rank: 0}": "need 1 <= min_rank <= rank, got 0 and 16",
    "train: {min_rank: 17}": "need 1 <= min_rank <= rank, got 17 and 16",
    "train: {alpha: 0}": "alpha must be positive, got 0.0",
    "train: {alpha_rank_scale: 0}": "alpha_rank_scale must be positive and finite, got 0.0",
    "train: {dropout: 1}": "dropout must be in [0, 1), got 1.0",
    "train: {target_modules: []}": "target_modules is empty: name at least one suffix, such as to_q",
    "train: {preserve: -1}": "preserve must not be negative, and finite, got -1.0",
    "train: {preserve_share: 0}": "preserve_share must be above 0 and at most 1, got 0.0",
    "draw_prior: {pictures: -1}": "pictures must be at least 0, got -1",
    "draw_prior: {num_inference_steps: 0}": "num_inference_steps must be at least 1, got 0",
    "draw_prior: {guidance_scale: -1}": "guidance_scale must be in 0..1000, got -1.0",
    "draw_prior: {first_seed: -1}": "first_seed must be in 0..2**63 - 1, got -1",
    "train: {prior_share: 1}": "prior_share must be in [0, 1), got 1.0",
    "train: {prior_loss_weight: 0}": "prior_loss_weight must be positive and finite, got 0.0",
    "train: {logit_mean: .inf}": "logit_mean must be finite, got inf",
    "train: {logit_std: 0}": "logit_std must be positive and finite, got 0.0",
    "train: {learning_rate: 0}": "learning_rate must be positive, got 0.0",
    "train: {lr_warmup_steps: -1}": "lr_warmup_steps must not be negative, got -1",
    "train: {adam_beta1: 1}": "adam_beta1 must be in [0, 1), got 1.0",
    "train: {adam_beta2: -0.1}": "adam_beta2 must be in [0, 1), got -0.1",
    "train: {adam_weight_decay: -1}": "adam_weight_decay must not be negative, got -1.0",
    "train: {adam_epsilon: 0}": "adam_epsilon must be positive, got 0.0",
    "train: {max_grad_norm: -1}": "max_grad_norm must not be negative, got -1.0",
    "train: {ema_decay: 1}": "ema_decay must be in [0, 1), got 1.0",
    "train: {max_train_steps: 0}": "max_train_steps must be at least 1, got 0",
    "train: {max_train_steps: -5}": "max_train_steps must be at least 1, got -5",
    "train: {checkpointing_steps: 0}": "checkpointing_steps must be at least 1, got 0",
    "train: {stop_patience: -1}": "stop_patience must be at least 0, got -1",
    "train: {stop_min_gain: 2}": "stop_min_gain must be in 0..1, got 2.0",
    "train: {stop_max_drift: -1}": "stop_max_drift must not be negative, and finite, got -1.0",
    "train: {stop_patience: 2, stop_evaluator: ''}": "stop_patience needs stop_evaluator: the CLIP that measures checkpoints",
    "train: {train_batch_size: 0}": "train_batch_size must be at least 1, got 0",
    "train: {gradient_accumulation_steps: 0}": "gradient_accumulation_steps must be at least 1, got 0",
    "train: {caption_dropout: 1}": "caption_dropout must be in [0, 1), got 1.0",
    "train: {seed: -1}": "seed must be in 0..2**63 - 1, got -1",
    "train: {seed: 18446744073709551616}": "seed must be in 0..2**63 - 1, got 18446744073709551616",
    "train: {num_inference_steps: 0}": "num_inference_steps must be at least 1, got 0",
    "train: {preview_every: -1}": "preview_every and guard_step must not be negative",
    "train: {guard_step: -1}": "preview_every and guard_step must not be negative",
    "train: {min_relative_change: 2}": "need 0 <= min_relative_change < max_relative_change, got 2.0 and 1.0",
    "train: {learning_rate: 1e3}": "learning_rate 1000 is more than adamw can learn with: at most 1",
    "train: {learning_rate: 5e-5, optimizer: prodigy}": (
        "learning_rate 5e-05 is an AdamW's, and prodigy multiplies a rate that it finds itself by it: set it to 1.0"
    ),
    "evaluate: {min_gain: 2}": "min_gain must be in 0..1, got 2.0",
    "train: {max_relative_change: 0}": "max_relative_change must be positive, got 0.0",
    "train: {state_steps: 0}": "state_steps must be at least 1, got 0",
    "train: {keep_states: 0}": "keep_states must be at least 1, got 0",
    "evaluate: {full_frame_prompts: -1}": "full_frame_prompts must not be negative, got -1",
    "evaluate: {width: 30}": "width and height must be multiples of 4, got 30 x 64",
    "evaluate: {height: 0}": "height must be at least 1, got 0",
    "evaluate: {num_inference_steps: 0}": "num_inference_steps must be at least 1, got 0",
    "evaluate: {guidance_scale: .inf}": "guidance_scale must be in 0..1000, got inf",
    "evaluate: {lora_scale: -.inf}": "lora_scale must be in -1000..1000, got -inf",
    "evaluate: {seeds: 1}": "seeds must be at least 2 (diversity compares them), got 1",
    "evaluate: {first_seed: -1}": "first_seed must be in 0..2**63 - 1, got -1",
    "evaluate: {scales: [.inf]}": "scales must be in -1000..1000, got inf",
    "evaluate: {preview_model: ./nowhere}": "preview_model: ./nowhere: no base model there (model_index.json is missing)",
    "evaluate: {batch: 0}": "batch must be at least 1, got 0",
    "evaluate: {loss_sigmas: []}": "loss_sigmas must be noise levels between 0 and 1, at least one, got []",
    "evaluate: {loss_noises: 0}": "need loss_noises and loss_pictures of at least 1, got 0 and 16",
    "evaluate: {loss_pictures: 0}": "need loss_noises and loss_pictures of at least 1, got 2 and 0",
    "evaluate: {min_diversity_ratio: 2}": "min_diversity_ratio must be in 0..1, got 2.0",
    "evaluate: {max_copied: -1}": "max_copied must be in 0..1, got -1.0",
    "evaluate: {race_confidence: 1}": "race_confidence must be between 0 and 1, got 1.0",
    "evaluate: {max_loss_gap: 2}": "max_loss_gap must be in 0..1, got 2.0",
    "evaluate: {max_lost_prompts: -1}": "max_lost_prompts must not be negative, got -1",
    "evaluate: {max_drift: .inf}": "max_drift must not be negative, and finite, got inf",
    "evaluate: {prompt_weight: .inf}": "prompt_weight must not be negative, and finite, got inf",
    # Unknown
    "train: {optimizer: sgd}": ".optimizer: must be one of adamw, adamw8bit, prodigy, got 'sgd'",
    "train: {lr_schedule: step}": ".lr_schedule: must be one of constant, cosine, linear, got 'step'",
    "train: {mixed_precision: fp8}": ".mixed_precision: must be one of no, bf16, got 'fp8'",
    "train: {mixed_precision: false}": ".mixed_precision: must be one of no, bf16, got False",
    "train: {trainer_type: loha}": ".trainer_type: must be one of lora, ortho_lora, got 'loha'",
    "train: {target_modules: [to_qq]}": "target_modules: 'to_qq' matches no Linear of the blocks, did you mean 'to_q'?",
    "train: {target_modules: [x_embedder]}": f"target_modules: 'x_embedder' is x_embedder, {OUTSIDE}",
    "train: {target_modules: [proj_out]}": (
        "target_modules: [proj_out] leaves all 2 transformer_blocks untouched: use [proj_out, to_q, to_k, to_v], or set"
        " leave_blocks_out to true if that is meant"
    ),
    "model: {dtype: float8}": ".dtype: must be one of float32, bfloat16, float16, got 'float8'",
    "model: {device: gpu}": "device: 'gpu' is no device: use cpu, cuda, cuda:0 or auto",
    "validate: {engine: dask}": ".engine: must be one of processes, ray, got 'dask'",
    "evaluate: {sigma_mask: none}": ".sigma_mask: must be one of timestep, step_index, full, got 'none'",
    # Contradicting another setting, or the base model
    "train: {min_rank: 16}": (
        "min_rank equals rank (16), so enable_rank_masking masks nothing: lower min_rank, or set enable_rank_masking to false"
        " for a plain LoRA"
    ),
    "train: {rank: 33}": f"{LAYER}: rank 33 is larger than a layer of 32 x 32 can hold: use at most 32",
    "train: {checkpointing_steps: 201}": (
        "checkpointing_steps (201) is more than max_train_steps (150): there would be no checkpoint to choose from"
    ),
    "train: {freeze_masked_ranks: true, optimizer: adamw8bit}": (
        "freeze_masked_ranks cannot keep single ranks of adamw8bit's moments, which are quantised in blocks across ranks:"
        " use adamw or prodigy"
    ),
    "cache_latents: {resolution: 66}": "resolution must be a multiple of 4 for this base model, got 66: use 64",
}


@pytest.fixture(scope="module")
def weightless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a base model that has everything but weights."""
    folder = tiny_pipeline_folder(tmp_path_factory.mktemp("weightless") / "base")
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    return folder


@pytest.mark.parametrize(("written", "line"), LINES.items(), ids=LINES)
def test_a_setting_that_cannot_work_is_one_line_before_a_weight_is_loaded(
    written: str,
    line: str,
    weightless: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    ((section, changes),) = parse_yaml(written).items()
    params = yaml.safe_load((ROOT / "params/pocket.yaml").read_text())
    params["model"]["path"] = str(weightless)
    params[section] |= changes
    Path("params.yaml").write_text(yaml.safe_dump(params))
    Path("concept.yaml").write_text("name: brick\ntrigger: matbrk\nheld_out: [b.png]\nprompts: [a matbrk wall]\n")
    stage = STAGES["train" if section == "model" else section]
    with pytest.raises(SystemExit) as end:
        run_stage(stage, options_of(stage.__name__))
    where = f"params.yaml: {section}" + ("" if line.startswith(".") else ": ")
    assert (end.value.code, capsys.readouterr().err) == (2, f"{stage.__name__}: error: {where}{line}\n")


def test_a_resolution_that_the_base_does_not_take_is_said_by_the_first_stage(
    weightless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    params = (ROOT / "params/pocket.yaml").read_text()
    Path("params.yaml").write_text(
        params.replace("models/pocket-flux", str(weightless)).replace("resolution: 64", "resolution: 66")
    )
    Path("concept.yaml").write_text("name: brick\ntrigger: matbrk\nheld_out: [b.png]\nprompts: [a matbrk wall]\n")
    with pytest.raises(SystemExit):
        run_stage(validate, options_of("validate"))
    line = "params.yaml: cache_latents: resolution must be a multiple of 4 for this base model, got 66: use 64"
    assert capsys.readouterr().err == f"validate: error: {line}\n"


def test_every_number_of_the_stages_is_among_those_that_are_refused() -> None:
    params = yaml.safe_load((ROOT / "params/pocket.yaml").read_text())
    numbers = {
        (section, key)
        for section in STAGES
        for key, value in params[section].items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    refused = {(section, key) for text in LINES for section, changes in parse_yaml(text).items() for key in changes}
    assert numbers - refused == set()
