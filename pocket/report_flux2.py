"""The model card of the pocket FLUX.2."""

from pocket.flux2 import BATCH, STATISTICS_PICTURES
from pocket.qwen import TEXT_LENGTH
from pocket.report import QUESTIONS, STEPS, Judged, shares_by
from pocket.scenes import held_out_combinations

GUIDANCE = 4.0


def model_card(judged: Judged, on_true: tuple[float, float, float], steps: int, megabytes: float, sheet: str) -> str:
    """Return the model card as Markdown.

    Args:
        judged: What was drawn and how it was judged.
        on_true: How often the judge is right about true pictures: composition, material, colour.
        steps: Training steps of the transformer.
        megabytes: Of all files together.
        sheet: Where the sheet of pictures is, from the card.
    """
    rows = "\n".join(
        f"| {question} | {true:.1%} | {share:.1%} |"
        for question, true, share in zip(QUESTIONS, on_true, judged.right.mean(0), strict=True)
    )
    return f"""# The pocket FLUX.2

A genuine `Flux2KleinPipeline`, small enough to ship beside [the pocket FLUX](pocket.md): `Flux2Transformer2DModel` without
guidance embedding (2 + 4 blocks, width 128), `AutoencoderKLFlux2`, a `Qwen3ForCausalLM` of 28 narrow layers with a byte-level
tokenizer and a chat template, and the `FlowMatchEulerDiscreteScheduler`. {megabytes:.1f} MB, float16. `params/pocket2.yaml`
trains adapters on it.

## How it was made

`make pocket2` builds it offline on the pocket FLUX's own pictures, and goes on where it was stopped. The VAE has the pocket
FLUX's weights; its batch norm has the statistics of {STATISTICS_PICTURES:,} pictures. Qwen3 learns to continue captions and is
then left alone. The transformer matches flows (velocity target) with Muon: {steps:,} steps of {BATCH}, one caption in ten
empty, which guidance at sampling needs. No photograph and no downloaded weight was used, and the
{len(held_out_combinations())} held-out combinations are those of the pocket FLUX.

The shipped one took about 40 minutes of one core's time, added up from its parts on a busy machine: 1.3 for the pictures, 1.1 to
encode them, 1.5 for Qwen3, and 0.62 seconds a step, compiled and in bfloat16, which is what a CPU with AMX and a compiler gets.
Eager steps in float32 took 0.7 (estimated from parts).

## What was measured

{len(judged.prompts)} captions of held-out combinations, {STEPS} steps, guidance {GUIDANCE:g} (two passes), texts of
{TEXT_LENGTH} tokens, one picture each, by the judge of the pocket FLUX:

| asked for | judge on true pictures | pocket FLUX.2 |
|---|---|---|
{rows}

All three at once: {judged.right.all(1).mean():.1%}. By composition: {shares_by(judged, "composition")}.

By material: {shares_by(judged, "material")}.

![Sixty-four held-out prompts]({sheet})

An adapter on it, by `params/pocket2.yaml` and the shipped photographs of a grey brick wall; a row for the base and for each
checkpoint:

![Grid of checkpoints](pictures/pocket_flux2_grid.png)

## What it cannot do

What [the pocket FLUX](pocket.md) cannot, and texts of more than {TEXT_LENGTH} tokens, template included. Ranks, learning rates
and step counts do not carry over to FLUX.2 [klein].
"""
