"""Whether another judge of fidelity agrees with what the rule recommends. It is asked afterwards, and never chooses."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from tlora.evaluation.intervals import Cells, bootstrap_interval
from tlora.evaluation.recommendation import Candidate, SelectionSettings, lead, objections, score


@dataclass(frozen=True)
class SecondOpinion:
    """What it says.

    Args:
        agrees: Whether it speaks against nothing that was recommended, or agrees that nothing is.
        said: Why, as a sentence.
    """

    agrees: bool
    said: str


def second_opinion(
    judge: str, candidates: Mapping[str, Candidate], fidelity: Mapping[str, Cells], chosen: str | None, rule: SelectionSettings
) -> SecondOpinion:
    """Ask whether the recommended checkpoint gains for certain by another judge too, and no other one scores more, beyond noise.

    Args:
        judge: What it is called.
        candidates: Checkpoints that were drawn to the end.
        fidelity: By each of them, similarity to held-out pictures over the base's by this judge, (prompts, seeds).
        chosen: The recommended one; None where nothing is.
        rule: By which it was chosen. `min_gain` is a matter of the first judge's numbers, and is not asked for here.
    """
    rule = dataclasses.replace(rule, min_gain=0.0)
    seen = {name: dataclasses.replace(candidate, fidelity=fidelity[name]) for name, candidate in candidates.items()}
    sound = {name: candidate for name, candidate in seen.items() if not objections(candidate, rule)}
    best = max(sound, key=lambda name: (score(sound[name], rule), -sound[name].step), default=None)
    agrees, disagrees = f"{judge}, the second opinion, agrees", f"{judge}, the second opinion, disagrees"
    if chosen is None:
        if best is None:
            return SecondOpinion(True, f"{agrees} that there is nothing to recommend")
        gain = bootstrap_interval(sound[best].fidelity)
        return SecondOpinion(False, f"{disagrees}: by it {best} gains {gain:+.3f} over the base, and nothing else is against it")
    own, gain = seen[chosen], bootstrap_interval(fidelity[chosen])
    if not gain.low > 0:
        return SecondOpinion(False, f"{disagrees}: by it {chosen} is not clearly above the base, {gain:+.3f}")
    if best is not None and best != chosen and (ahead := lead(sound[best], own, rule)).low > 0:
        return SecondOpinion(False, f"{disagrees}: by it {best} scores more than {chosen}, by {ahead:+.3f}: more than noise")
    others = "no other scores more, beyond noise" if len(seen) > 1 else "no other was drawn to the end"
    return SecondOpinion(True, f"{agrees}: by it {chosen} gains {gain:+.3f} over the base, and {others}")
