"""Which prompts an adapter has lost: those that the base draws as asked, and the adapter as another prompt asks.

A mean over prompts hides one that is lost among others that are not; so this is asked of each prompt by itself.
"""

from collections.abc import Sequence

import numpy as np

from tlora.evaluation.intervals import Cells


def lost_prompts(own: Cells, base: Cells, prompts: Sequence[str]) -> tuple[str, ...]:
    """Return the prompts that are lost for certain, whatever is still drawn.

    A prompt is lost if, of its seeds at which the base's picture is nearest to its own prompt, the adapter's is nearer to another
    prompt at more than half. Prompts that the base itself does not tell from the others at half of the seeds cannot be lost.

    Args:
        own: `prompt_contrast` of the adapter's pictures, (prompts, seeds), NaN where none was drawn.
        base: Of the base's, every one of them.
        prompts: What was asked for.
    """
    followed = base > 0
    gone = (followed & (own < 0)).sum(axis=1)
    can_be = 2 * followed.sum(axis=1) >= base.shape[1]
    return tuple(prompt for prompt, is_lost in zip(prompts, can_be & (2 * gone > followed.sum(axis=1)), strict=True) if is_lost)


def worst_prompt(change: Cells, prompts: Sequence[str]) -> tuple[str, float] | None:
    """Return the prompt with the least change, and that change; None where nothing was drawn.

    Args:
        change: Of contrast against the base at the same seed, (prompts, seeds), NaN where none was drawn; empty if unmeasured.
        prompts: What was asked for.
    """
    means = {p: float(np.nanmean(row)) for p, row in zip(prompts, change, strict=False) if not np.isnan(row).all()}
    return min(means.items(), key=lambda each: each[1]) if means else None
