"""What drawn pictures are worth, each number a small pure function of unit embeddings.

All similarities are cosines. An evaluator rewards copying the one wall it was shown, so fidelity is never read alone: prompt
following is a paired difference to the base, diversity guards against collapse, and the distance to the training pictures
against copies.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tlora.evaluation.intervals import Cells

SAME = 1e-5  # of cosines; pictures nearer than that are one to float32
COPY = 0.5  # of the usual distance; a picture nearer than that to one of the training pictures counts as its copy


def concept_similarity(
    pictures: Float[Tensor, "pictures width"], references: Float[Tensor, "references width"]
) -> Float[Tensor, " pictures"]:
    """Return each picture's mean cosine with the reference pictures (CLIP-I, DINO-I): -1..1, higher is closer.

    Known failure: rewards copies and full-frame compositions; read beside diversity and prompt following.
    Source: DreamBooth (arXiv:2208.12242), section 4.1.
    """
    return (pictures @ references.T).mean(dim=1)


def prompt_similarity(
    pictures: Float[Tensor, "pictures width"], texts: Float[Tensor, "pictures width"]
) -> Float[Tensor, " pictures"]:
    """Return each picture's cosine with its own prompt (CLIP-T): -1..1, higher follows more.

    Known failure: means little in itself, since no evaluator knows the trigger word; use the paired difference to the base at
    the same prompt and seed.
    Source: CLIPScore (arXiv:2104.08718), without its rescaling.
    """
    return (pictures * texts).sum(dim=1)


def prompt_contrast(
    pictures: Float[Tensor, "pictures width"], texts: Float[Tensor, "prompts width"], own: Int[Tensor, " pictures"]
) -> Float[Tensor, " pictures"]:
    """Return how much nearer each picture is to its own prompt than to the nearest of the others: -2..2, above 0 is its own.

    What all prompts share, the trigger word among it, adds as much to either side and falls out; what tells them apart is left.

    Args:
        pictures: Unit embeddings.
        texts: Of all prompts, two at the least.
        own: The number of each picture's prompt.

    Known failure: prompts that say the same in other words contrast with nothing; read it against the base's.
    Source: image-to-text retrieval among the prompts, as CLIP (arXiv:2103.00020), section 3.1.4, tells classes apart.
    """
    similar = pictures @ texts.T
    mine = similar.gather(1, own[:, None])[:, 0]
    others = similar.scatter(1, own[:, None], -torch.inf).max(dim=1).values
    return mine - others


def seed_distances(pictures: Float[Tensor, "pictures width"]) -> Float[Tensor, " pairs"]:
    """Return the distance (1 - cosine) of every pair of pictures of one prompt: 0..2, higher is more diverse, 0 is collapse.

    Known failure: noise is diverse too; read beside fidelity. Pairs that share a picture are not independent, so an interval
    over them is somewhat too narrow.
    """
    first, second = torch.triu_indices(len(pictures), len(pictures), offset=1)
    return 1 - (pictures @ pictures.T)[first, second]


def nearest_similarity(
    pictures: Float[Tensor, "pictures width"], references: Float[Tensor, "references width"]
) -> Float[Tensor, " pictures"]:
    """Return each picture's cosine with its nearest training picture: -1..1, near 1 is a copy.

    Known failure: what counts as near depends on evaluator and concept; `training_distance` puts it into proportion.
    """
    return (pictures @ references.T).max(dim=1).values


def usual_distance(train: Float[Tensor, "train width"], held_out: Float[Tensor, "held_out width"]) -> float:
    """Return how far a true picture of the concept usually is from the nearest training picture: 0..2.

    The median over the training pictures, each against the others, and the held-out ones; 0 where most are copies of each other.
    """
    among = train @ train.T - 2 * torch.eye(len(train))
    nearest = [among.max(dim=1).values] if len(train) > 1 else []
    return float(1 - torch.cat([*nearest, nearest_similarity(held_out, train)]).median())


def training_distance(
    pictures: Float[Tensor, "pictures width"], train: Float[Tensor, "train width"], usual: float
) -> Float[Tensor, " pictures"]:
    """Return each picture's distance to its nearest training picture as a share of the usual one.

    0 is a copy, 1 is what true pictures have, more is further from the concept.

    Known failure: an evaluator that does not see the difference between two training pictures sees copies everywhere; where the
    usual distance is 0, every distance is given as 1.
    Source: nearest training picture against the training pictures' own spread, after arXiv:2212.03860, section 4.
    """
    distance = 1 - nearest_similarity(pictures, train)
    return torch.where(distance.isnan(), distance, 1.0) if usual <= 0 else distance / usual


def is_copy(distance: Float[Tensor, " pictures"]) -> Bool[Tensor, " pictures"]:
    """Return which pictures lie nearer to a training picture than half the usual distance; their share is 0..1, lower is better.

    Known failure: a hard limit, drawn by judgement; look at the grid.
    """
    return distance < COPY


def movement(
    own: Float[Tensor, "prompts seeds width"], base: Float[Tensor, "prompts seeds width"]
) -> Float[Tensor, "prompts seeds"]:
    """Return how far each picture is from the base's of the same prompt and seed: 0 is unmoved.

    1 is as far as two of the base's own pictures, of whichever prompts and seeds, are from each other on average. Where the base
    draws one thing, whatever moved has 1.

    Args:
        own: Unit embeddings of pictures that the adapter should have left alone.
        base: The base's, two pictures at the least.

    Known failure: sees what the evaluator sees; a change of hue may be less to it than to a person.
    """
    distance = 1 - (own * base).sum(dim=-1)
    distance = torch.where(distance > SAME, distance, 0.0)  # what rounding leaves of none
    usual = seed_distances(base.reshape(-1, base.shape[-1])).mean()
    return distance / usual if usual > SAME else distance.sign()


def table(values: Tensor, prompts: int) -> Cells:
    """Return values in the order of prompts, then seeds or pairs, as a table with a row for each prompt."""
    return values.reshape(prompts, -1).double().numpy()
