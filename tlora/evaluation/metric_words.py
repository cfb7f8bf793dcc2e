"""Every metric in words: what a page calls it, in which unit, what it says and which way is better.

A metric that is not here is shown all the same, under the name that the file gives it. What may fool a metric stands where it is
computed, in `tlora`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A metric in words.

    Args:
        label: Its name for a person.
        unit: What its numbers are.
        meaning: What it says, and which way is better, in a sentence.
    """

    label: str
    unit: str = "value"
    meaning: str = ""

    @property
    def is_difference(self) -> bool:
        """Whether 0 means that nothing changed, so that its numbers are shown with their sign."""
        return self.unit.startswith("difference")


_COSINE, _DIFFERENCE, _SHARE = "cosine", "difference of cosines", "share"
KNOWN = {  # in the order of a page
    "similarity_gain": Metric(
        "Similarity gain",
        _DIFFERENCE,
        "Similarity to held-out pictures, less the base's at the same prompt and seed. More is better.",
    ),
    "dinov2_gain": Metric(
        "Similarity gain by DINOv2", _DIFFERENCE, "The same by a second judge, which knows no texts. More is better."
    ),
    "efficientnet_gain": Metric(
        "Similarity gain by EfficientNet",
        _DIFFERENCE,
        "The same by a judge that had no part in any of the models here. It never chooses. More is better.",
    ),
    "prompt_following": Metric(
        "Prompt following against the base",
        _DIFFERENCE,
        "Similarity to the prompt, less the base's at the same prompt and seed. Below 0, prompts are lost.",
    ),
    "contrast_change": Metric(
        "Prompt following by contrast",
        _DIFFERENCE,
        "How much nearer to its own prompt than to the nearest other one, less the base's. Below 0, prompts blur.",
    ),
    "worst_prompt": Metric(
        "Prompt contrast of the worst prompt", _DIFFERENCE, "The same of the one prompt that lost most. The mean hides it."
    ),
    "lost_prompts": Metric("Lost prompts", "prompts", "Drawn by the base as asked, and now as another prompt asks. 0 is none."),
    "drift": Metric(
        "Drift of other prompts",
        "share of the base's differences",
        "How far prompts without the trigger word moved from the base's pictures; 1 is as far as these differ. Less is better.",
    ),
    "similarity_held_out": Metric(
        "Similarity to held-out pictures", _COSINE, "With pictures never trained on. More is better, up to copying."
    ),
    "dinov2_held_out": Metric("Similarity by DINOv2", _COSINE, "With pictures never trained on. More is better, up to copying."),
    "efficientnet_held_out": Metric(
        "Similarity by EfficientNet", _COSINE, "With pictures never trained on. More is better, up to copying."
    ),
    "similarity_train": Metric(
        "Similarity to training pictures", _COSINE, "More is better, as long as the held-out pictures keep up."
    ),
    "prompt_contrast": Metric(
        "Prompt contrast",
        _DIFFERENCE,
        "How much nearer to its own prompt than to the nearest other one. Below 0 it shows another.",
    ),
    "diversity": Metric(
        "Diversity across seeds", "1 − cosine", "How much pictures of one prompt differ. At 0 all look the same."
    ),
    "diversity_ratio": Metric("Diversity against the base", "share of the base's", "Too little of the base's is collapse."),
    "nearest_training_picture": Metric(
        "Similarity to the nearest training picture", _COSINE, "With whichever training picture is closest. Near 1 is a copy."
    ),
    "training_distance": Metric(
        "Distance to the training pictures",
        "share of the usual distance",
        "To the nearest one, as a share of how far true pictures are from each other. Near 0 is a copy.",
    ),
    "copied": Metric("Copies", _SHARE, "Pictures nearer to a training picture than half the usual distance. Less is better."),
    "loss_reduction_train": Metric(
        "Loss gone on training pictures", "share of the base's loss", "At fixed noise. How much of it was learnt or memorised."
    ),
    "loss_reduction_held_out": Metric(
        "Loss gone on held-out pictures", "share of the base's loss", "At fixed noise. What was learnt. More is better."
    ),
    "loss_gap": Metric(
        "Memorising", "difference of shares", "Loss gone on training pictures less that on held-out ones. 0 is none."
    ),
    "seam_ratio": Metric(
        "Seam when tiled", "step at the border / step inside", "1 is a seam like any other line of pixels. Less is better."
    ),
    "spectrum_distance": Metric(
        "Texture: difference of spectra",
        "Hellinger distance",
        "0: detail of the true pictures' scales and directions. Less is better.",
    ),
    "period_error": Metric(
        "Texture: difference of periods", "octaves", "How far courses repeat from the true distance. Less is better."
    ),
    "orientation_error": Metric("Texture: difference of directions", "degrees", "How far courses are turned. Less is better."),
}


def describe(name: str) -> Metric:
    """Return a metric in words.

    Example:
        >>> describe("moss_cover").label
        'Moss cover'
    """
    return KNOWN.get(name) or Metric(name.replace("_", " ").capitalize())
