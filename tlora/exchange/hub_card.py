"""A model card: what an adapter is, how good, and how to use it, as the README.md that the Hugging Face hub shows.

From what the adapter says of itself and from evaluation's numbers; nothing is looked up.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from tlora.evaluation.metric_words import KNOWN, describe
from tlora.flux.families import FLUX_1, Family, family_named
from tlora.metadata.adapter import AdapterMetadata
from tlora.trust.licences import FLUX_DEV, NON_COMMERCIAL_FLUX, Licences, front_matter

_NON_COMMERCIAL = (
    "The base model's licence (FLUX.1 [dev] Non-Commercial License) passes on to adapters trained on it: no commercial use of the"
    " adapter without a licence from Black Forest Labs; read it before you share or use this file."
)

_FLUX_DRAWING = {
    "width": 1024,
    "height": 1024,
    "num_inference_steps": 28,
    "guidance_scale": 3.5,
    "max_sequence_length": 512,
}


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation says of an adapter; nothing if it was not evaluated.

    Args:
        scores: Its numbers.
        base_scores: The bare base's.
        verdict: Whether it is the recommended one, and why it is or which is.
        drawing: Size, steps, guidance and text length of the pictures.
    """

    scores: Mapping[str, Any] = field(default_factory=dict)
    base_scores: Mapping[str, Any] = field(default_factory=dict)
    verdict: str = ""
    drawing: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """What a card is made of.

    Args:
        adapter: What the adapter says of itself.
        file: Name of its file.
        digest: Hash of its bytes.
        grid: Name of the picture beside the card, if there is one.
        evaluation: What an evaluation says of it.
        base_is_on_hub: Whether the base's name is one of the hub.
        licences: Of base, data and adapter.
    """

    adapter: AdapterMetadata
    file: str
    digest: str
    grid: str
    evaluation: Evaluated
    base_is_on_hub: bool
    licences: Licences


def model_card(card: Card) -> str:
    """Return the card as Markdown with the hub's front matter."""
    name = card.adapter.concept or "adapter"
    parts = [
        f"---\n{yaml.safe_dump(_front_matter(card), sort_keys=False, allow_unicode=True)}---",
        f"# {name}: a T-LoRA adapter for {card.adapter.base or card.adapter.family}",
        "[T-LoRA](https://arxiv.org/abs/2507.05964) is LoRA whose active rank depends on the diffusion timestep: few ranks at"
        " high noise, all at low noise, so that a handful of pictures can be learnt without being memorised."
        + (f" Its trigger word is `{card.adapter.trigger}`." if card.adapter.trigger else ""),
        f"![what it draws]({card.grid})" if card.grid else "",
        "## How good",
        card.evaluation.verdict,
        _scores_table(card.evaluation) if card.evaluation.scores else "Not evaluated.",
        "## What it is made of",
        _facts(card),
        "## How to use it",
        _usage(card),
        "## Licence",
        "\n".join(f"- {part}: {f'`{name}`' if name else 'nobody said'}" for part, name in card.licences.parts().items()),
        _NON_COMMERCIAL if card.licences.base == NON_COMMERCIAL_FLUX else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(card: Card) -> dict[str, Any]:
    licence = front_matter(card.licences.adapter)
    on_hub = {"base_model": card.adapter.base, "base_model_relation": "adapter"} if card.base_is_on_hub else {}
    trigger = {"instance_prompt": card.adapter.trigger} if card.adapter.trigger else {}
    tags = ["t-lora", "lora", _family(card).tag, "text-to-image"]
    common = {"library_name": "diffusers", "pipeline_tag": "text-to-image", "tags": tags}
    return {**on_hub, **licence, **common, **trigger}


def _family(card: Card) -> Family:
    return family_named(card.adapter.family) or FLUX_1


def _scores_table(evaluation: Evaluated) -> str:
    names = [name for name, value in evaluation.scores.items() if _number(value) and name != "step"]
    names.sort(key=lambda name: list(KNOWN).index(name) if name in KNOWN else len(KNOWN))
    rows = [_scores_row(name, evaluation) for name in names]
    table = [["measure", "bare base", "this adapter", "unit", "what it says"], ["---"] * 5, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)


def _scores_row(name: str, evaluation: Evaluated) -> list[str]:
    metric = describe(name)
    numbers = [_number(evaluation.base_scores.get(name)), _number(evaluation.scores[name])]
    return [metric.label, *numbers, metric.unit, metric.meaning]


def _number(value: Any) -> str:
    """Return a score as text: a number, or a mean with its 95 % interval; nothing for anything else."""
    if isinstance(value, Mapping) and {"mean", "low", "high"} <= value.keys():
        return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
    return f"{value:.3f}" if isinstance(value, (int, float)) and not isinstance(value, bool) else ""


def _facts(card: Card) -> str:
    cfg = card.adapter.config
    masked = f"{cfg.min_rank} at timestep {card.adapter.max_timestep:g} to {cfg.rank} at 0, exponent {cfg.alpha_rank_scale:g}"
    facts = {
        "base": card.adapter.base,
        "family": card.adapter.family,
        "base revision": card.adapter.base_revision,
        "rank schedule": masked if cfg.enable_rank_masking else f"none: rank {cfg.rank} at every timestep",
        "alpha": f"{cfg.alpha:g}",
        "layers": f"{cfg.trainer_type}, {', '.join(card.adapter.target_modules)}",
        "optimizer steps": str(card.adapter.step),
        "data digest": card.adapter.data_digest,
        "parameters digest": card.adapter.params_digest,
        "code digest": card.adapter.code_digest,
        "sha256 of the file": card.digest,
    }
    return "\n".join(f"- {name}: `{value}`" for name, value in facts.items() if value)


def _usage(card: Card) -> str:
    """Return snippets for the base, size and steps that the adapter was evaluated with; without an evaluation, FLUX.1's."""
    base, prompt = card.adapter.base or FLUX_DEV, f"a {card.adapter.trigger or card.adapter.concept or 'photo'} wall"
    drawing = {**_FLUX_DRAWING, **card.evaluation.drawing}
    width, height, steps = drawing["width"], drawing["height"], drawing["num_inference_steps"]
    guidance, length = drawing["guidance_scale"], drawing["max_sequence_length"]
    pipeline = _family(card).pipelines[0]
    dtype = "bfloat16" if card.base_is_on_hub or not card.adapter.base else "float32"
    bands = f"tlora export {card.file} --format bands --out bands --steps {steps} --width {width} --height {height}"
    comfy = ""
    if card.base_is_on_hub:
        comfy = f"""

In ComfyUI, with the mask, as one standard LoRA for each rank and a workflow that switches them on by step:

```sh
{bands}
```"""
    return f"""With the mask at every step, as it was trained; `config.yaml`:

```yaml
pretrained_model_name_or_path: {base}
mixed_precision: "{"bf16" if dtype == "bfloat16" else "no"}"
resolution: {width}
num_inference_steps: {steps}
guidance_scale: {guidance:g}
max_sequence_length: {length}
```

```sh
tlora infer --config config.yaml --lora_path {card.file} --prompt "{prompt}" --outdir drawn
```

In diffusers, without the mask: full rank at every step, which looks stronger and closer to the training pictures:

```sh
tlora export {card.file} --format diffusers --out diffusers.safetensors
```

```python
import torch
from diffusers import {pipeline}

pipe = {pipeline}.from_pretrained("{base}", dtype=torch.{dtype})
pipe.load_lora_weights(".", weight_name="diffusers.safetensors")
picture = pipe(
    "{prompt}",
    width={width},
    height={height},
    num_inference_steps={steps},
    guidance_scale={guidance:g},
    max_sequence_length={length},
).images[0]
```{comfy}"""
