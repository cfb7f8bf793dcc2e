"""The page and the picture sheets of a comparison."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from benchmarks.comparison.arms import PRESERVED
from benchmarks.comparison.matched import Curve, Difference, at_fidelity, common_fidelity, paired_difference
from benchmarks.comparison.measures import NOVEL
from benchmarks.measure import machine
from tlora.evaluation.grid import labelled_grid

SHARES = (0.8, 0.5)  # of the fidelity that every method reaches; the first is the one that counts
MEASURES = {"following": "prompt following", "copying": "copying", "survival": "other materials kept"}
WORTH = 0.05  # least rise of other materials kept that preservation is worth its price for
PRIMARY = ("T-LoRA, R_min 1", "LoRA", "following")
ARM_OF_CHOICE = "T-LoRA, R_min R/2"  # as shipped

Curves = Mapping[str, Mapping[str, Curve]]  # concept -> method -> curve, averaged over seeds


def comparison_page(curves: Curves, steps: Sequence[int], seeds: int, sheets: Mapping[str, str], base: str) -> str:
    """Return the page as Markdown.

    Args:
        curves: What was measured.
        steps: Steps at which it was, 0 (the base) included.
        seeds: Training seeds behind each curve.
        sheets: Concept -> path of its picture sheet, relative to the page.
        base: What identifies the base's weights.
    """
    levels = {share: {c: common_fidelity(arms, share) for c, arms in curves.items()} for share in SHARES}
    used = [c for c, level in levels[SHARES[0]].items() if level is not None]
    parts = [_opening(curves, used, steps, seeds, base), f"**{_verdict(curves, levels[SHARES[0]], used)}**"]
    parts += [preserved_line(curves, levels[SHARES[0]], used, steps, arm) for arm in PRESERVED if used]
    parts += ["## For whoever makes textures", in_plain_words(curves, levels[SHARES[0]], used)] if used else []
    for share in SHARES if used else ():
        parts += [f"## At {share:.0%} of the fidelity that every method reaches", _matched_table(curves, levels[share], used)]
    parts += ["## Along the curve, at equal steps", "Means over concepts; fidelity is what the methods differ in here."]
    parts += [_curve_table(curves, steps)]
    parts += [
        "## Pictures",
        _caption_of_sheets(),
        *(f"### {concept}\n\n![{concept}]({path})" for concept, path in sheets.items()),
    ]
    return "\n\n".join(parts) + "\n"


def preserved_line(
    curves: Curves, levels: Mapping[str, float | None], used: Sequence[str], steps: Sequence[int], arm: str
) -> str:
    """Return what preservation keeps, and what it costs, against the same method without it, at equal fidelity.

    Named before it was run: it pays if other materials kept rise by at least `WORTH` with an interval clear of 0, and prompt
    following is not clearly lower.
    """
    plain = PRESERVED[arm]
    kept, following = _by_preservation(curves, levels, used, arm)
    slower = [
        at_fidelity(stepped(curves[c][arm], steps), "step", level) / at_fidelity(stepped(curves[c][plain], steps), "step", level)
        for c in used
        if (level := levels[c]) is not None
    ]
    pays = _pays(kept, following)
    worth = f"other materials kept at least {WORTH:+.2f}, clear of 0, prompt following not lower"
    told = [
        f"{name} {found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
        for name, found in (("kept", kept), ("following", following))
    ]
    says = f"**Preservation {'pays' if pays else 'does not pay'} with {plain}**, by what was named in advance ({worth})"
    return f"{says}: {', '.join(told)}, {np.mean(slower):.2f} times the steps."


def in_plain_words(curves: Curves, levels: Mapping[str, float | None], used: Sequence[str]) -> str:
    """Return what the numbers mean to somebody who makes textures: means at equal fidelity."""
    base = {measure: float(np.mean([curves[c]["LoRA"][measure][0] for c in used])) for measure in MEASURES}
    chosen = {arm: _at(curves, levels, used, arm) for arm in ("LoRA", ARM_OF_CHOICE, *PRESERVED)}
    kept = ", ".join(f"{arm} keeps {values['survival']:.0%}" for arm, values in chosen.items())
    asked = ", ".join(f"{values['following']:.0%}" for values in chosen.values())
    copying = max(values["copying"] for values in chosen.values())
    sentences = (
        "An adapter that has learnt a new material has forgotten a little of the others. The judge was shown balls of the",
        f"base's own twelve materials: it names {base['survival']:.0%} of them rightly without an adapter. With one that draws",
        f"the new material as well as all methods do at this point, {kept}.",
        "The shape that was asked for (ball, cube, floor, a circle or square on the wall) comes in",
        f"{asked} of the pictures, in the same order; in {base['following']:.0%} of the base's. None repeats the training",
        f"picture: {copying:.2f} is the largest mean correlation with it, where a copy has 1.",
        _advice(curves, levels, used),
    )
    return "\n".join(sentences)


def _at(curves: Curves, levels: Mapping[str, float | None], used: Sequence[str], arm: str) -> dict[str, float]:
    """Return each measure of a method where its curves reach the matched fidelity, as a mean over concepts."""
    reached = [(curves[c][arm], level) for c in used if (level := levels[c]) is not None]
    return {measure: float(np.mean([at_fidelity(curve, measure, level) for curve, level in reached])) for measure in MEASURES}


def _advice(curves: Curves, levels: Mapping[str, float | None], used: Sequence[str]) -> str:
    pays = [plain for arm, plain in PRESERVED.items() if _pays(*_by_preservation(curves, levels, used, arm))]
    if pays:
        return f"So turn preservation on (`train.preserve: 1`) with {' and '.join(pays)} where other materials matter."
    return (
        "So preservation is off as shipped: what it keeps here is not worth the further steps, each 1.4 times as long."
        " If other materials matter more to you than the new one, take an earlier checkpoint: what is kept falls with the steps."
    )


def _by_preservation(
    curves: Curves, levels: Mapping[str, float | None], used: Sequence[str], arm: str
) -> tuple[Difference, Difference]:
    """Return what a preserved method changes against itself without: other materials kept, and prompt following."""
    plain = PRESERVED[arm]
    return (
        _differences(curves, levels, used, arm, "survival", plain),
        _differences(curves, levels, used, arm, "following", plain),
    )


def _pays(kept: Difference, following: Difference) -> bool:
    """Whether preservation pays, by what was named before it was run."""
    return kept.mean >= WORTH and kept.low > 0 and not following.high < 0


def stepped(curve: Curve, steps: Sequence[int]) -> Curve:
    """Return a curve with its steps as a measure of their own."""
    return {**curve, "step": [float(step) for step in steps]}


def matched_step(curve: Curve, steps: Sequence[int], fidelity: float) -> int:
    """Return the first measured step at which a curve reaches a fidelity."""
    return next(step for step, value in zip(steps, curve["fidelity"], strict=True) if step and value >= fidelity)


def make_sheet(training: Image.Image, base: Image.Image, rows: Mapping[str, Image.Image]) -> Image.Image:
    """Lay strips of novel pictures out, a row per method, the training picture at the left of the base's row."""
    blank = Image.new("RGB", training.size, "white")
    strips = {"base": [training, *_cut(base)], **{name: [blank, *_cut(strip)] for name, strip in rows.items()}}
    return labelled_grid(list(strips), ["training picture", *NOVEL], list(strips.values()))


def strip_of(novel: Mapping[str, Sequence[Image.Image]]) -> Image.Image:
    """Put the first picture of each composition side by side, for keeping."""
    return Image.fromarray(np.concatenate([np.asarray(row[0]) for row in novel.values()], axis=1))


def _cut(strip: Image.Image) -> list[Image.Image]:
    side = strip.height
    return [strip.crop((i * side, 0, (i + 1) * side, side)) for i in range(strip.width // side)]


def _opening(curves: Curves, used: Sequence[str], steps: Sequence[int], seeds: int, base: str) -> str:
    left_out = sorted(set(curves) - set(used))
    without = f" Left out, since some method never rises above the base: {', '.join(left_out)}." if left_out else ""
    sentences = (
        f"{len(curves)} concepts, {seeds} training seeds, one full-frame picture each, rank 16 on every attention projection",
        f"of the pocket FLUX (weights {base[:12]}), batch 4, learning rate 2e-3, measured at steps",
        f"{', '.join(map(str, steps[1:]))}. Methods are compared where their curves reach the same concept",
        "fidelity, not at the same step. Intervals: 95 %, bootstrap over",
        f"{len(used)} concepts.{without} Primary measure, named in advance: prompt following, T-LoRA (R_min 1) minus LoRA, at",
        f"{SHARES[0]:.0%}. A toy base: signs may carry over to FLUX.1-dev, sizes do not.",
    )
    return "\n\n".join(("# LoRA against T-LoRA, on one picture", f"`make compare`: {machine()}.", "\n".join(sentences)))


def _differences(
    curves: Curves, levels: Mapping[str, float | None], used: Sequence[str], arm: str, measure: str, against: str = "LoRA"
) -> Difference:
    values = {
        name: [at_fidelity(curves[c][name], measure, level) for c in used if (level := levels[c]) is not None]
        for name in (arm, against)
    }
    return paired_difference(values[arm], values[against])


def _verdict(curves: Curves, levels: Mapping[str, float | None], used: Sequence[str]) -> str:
    if not used:
        return "No concept was learnt by every method, so nothing can be compared."
    found = _differences(curves, levels, used, PRIMARY[0], PRIMARY[2])
    interval = f"{found.mean:+.3f} (95 % interval {found.low:+.3f} to {found.high:+.3f})"
    if not found.is_clear:
        return f"No difference is shown in prompt following at matched fidelity: T-LoRA minus LoRA is {interval}."
    return f"At matched fidelity T-LoRA follows prompts {'better' if found.mean > 0 else 'worse'} than LoRA: {interval}."


def _matched_table(curves: Curves, levels: Mapping[str, float | None], used: Sequence[str]) -> str:
    head = "| method | " + " | ".join(MEASURES.values()) + " |\n|---" + "|---" * len(MEASURES) + "|"
    rows = []
    for arm in _arms(curves):
        cells = []
        for measure in MEASURES:
            mean = float(np.mean([at_fidelity(curves[c][arm], measure, level) for c in used if (level := levels[c]) is not None]))
            found = _differences(curves, levels, used, arm, measure)
            against = "" if arm == PRIMARY[1] else f" ({found.mean:+.3f}, {found.low:+.3f} to {found.high:+.3f})"
            cells.append(f"{mean:.3f}{against}")
        rows.append(f"| {arm} | " + " | ".join(cells) + " |")
    return head + "\n" + "\n".join(rows) + "\n\nIn brackets: paired difference to LoRA, with its interval."


def _curve_table(curves: Curves, steps: Sequence[int]) -> str:
    lines = ["| method | step | fidelity | " + " | ".join(MEASURES.values()) + " |", "|---|---|---|" + "---|" * len(MEASURES)]
    for arm in _arms(curves):
        for i, step in enumerate(steps):
            means = [np.mean([curves[c][arm][m][i] for c in curves]) for m in ("fidelity", *MEASURES)]
            lines.append(f"| {arm} | {step} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
    return "\n".join(lines)


def _arms(curves: Curves) -> list[str]:
    return list(next(iter(curves.values())))


def _caption_of_sheets() -> str:
    return (
        "Each method at the first measured step at which it reaches the matched fidelity (first training seed, first picture of"
        " each prompt); the training picture stands at the top left, the base's row has no adapter."
    )
