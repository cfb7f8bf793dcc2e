"""The report that a person opens after training: which checkpoint and why, the pictures, the curves, and what it was made from.

Built from the files that evaluation left, so a number that is new there shows by itself. Nothing in it that
is not a function of the inputs: DVC hashes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from tasks.pages.charts import Chart, Dot, front_chart
from tasks.pages.gallery import Gallery
from tasks.pages.inline import inline_pictures, inline_thumbnail
from tasks.pages.page import render_page
from tasks.pages.scores import Entries, curves, in_order, interval_of, score_table
from tasks.results.album import DISTILLED, Album, are_small, files_of, read_album
from tasks.results.evaluation import Evaluation, read_evaluation, read_json
from tasks.results.lineage import adapter_lineage, evaluation_lineage, listing
from tlora.evaluation.metric_words import describe
from tlora.metadata.adapter import BASE, AdapterMetadata
from tlora.pictures.decode import decode_picture
from tlora.pictures.manifest import PictureItem, read_manifest

_HEADLINE = ("similarity_gain", "contrast_change", "worst_prompt", "drift", "diversity_ratio")
_FRONT = ("contrast_change", "similarity_gain")  # across and up: what an adapter is wanted for, and trades for each other
_ONE_PROMPT = (
    "prompt_following",
    "similarity_gain",
)  # which contrasts with none; so had evaluations before contrast was measured
_MOST_THUMBNAILS, _THUMBNAIL_SIDE = 36, 160


@dataclass(frozen=True)
class EvaluationFiles:
    """What the page is built from.

    Args:
        metrics: reports/evaluate/evaluate.json.
        album: Folder of the pictures.
        manifest: Training pictures.
        held_out: Held-out pictures.
        data: Folder of these pictures.
        others: The grid of prompts without the trigger word; there where they were drawn.
    """

    metrics: Path
    album: Path
    manifest: Path
    held_out: Path
    data: Path
    others: Path | None = None


def render_evaluation(files: EvaluationFiles, adapter: AdapterMetadata) -> str:
    """Return the page.

    Args:
        files: What it is built from.
        adapter: Metadata of any of the checkpoints.
    """
    evaluation, album, told = read_evaluation(files.metrics), read_album(files.album), read_json(files.metrics)
    entries, chosen, strengths = evaluation.checkpoints, evaluation.recommended, told.get("scales", {})
    race = told.get("race")
    train, held_out = read_manifest(files.manifest), read_manifest(files.held_out)
    lineage = adapter_lineage(adapter) | evaluation_lineage(evaluation.setup, train, held_out)
    ordered = {name: entries[name] for name in in_order(entries)}
    shown = chosen or list(ordered)[-1]
    names = (
        [*_HEADLINE]
        if _FRONT[0] in entries.get(shown, {})
        else ["similarity_gain", "prompt_following", "drift", "diversity_ratio"]
    )
    headline = [(describe(name), interval_of(entries.get(shown, {}).get(name))) for name in names]
    by_strength = {f"× {entry['scale']:g}": entry for entry in strengths.get("entries", [])}
    values = {
        "title": f"{adapter.concept} on {Path(adapter.base).name}: evaluation",
        "chosen": chosen,
        "reason": evaluation.reason,
        "advice": told.get("advice", ""),
        "opinion": evaluation.second_opinion,
        "failures": evaluation.failures,
        "shown": shown,
        "headline": [(metric, number) for metric, number in headline if number],
        "race": race if race and race["pictures"] < race["of"] else None,
        "count": len(entries) - (BASE in entries),
        "album": album,
        "galleries": _galleries(evaluation, album, told),
        "others": _others(files.others),
        "fast_look": told.get("fast_look"),
        "strengths_of": strengths.get("checkpoint"),
        "strengths": score_table("strength", by_strength),
        "front": _front(ordered, chosen),
        "curves": curves(entries, chosen),
        "scores": score_table("checkpoint", ordered),
        "trained": len(train.items),
        "held_out": len(held_out.items),
        "thumbnails": _thumbnails(files.data, train.items, held_out.items),
        "prompts": evaluation.setup["prompts"],
        "lineage": {**lineage, "Rule of choice": listing(told.get("rule", {}))},
    }
    return render_page("evaluate/page.html", values)


def _galleries(evaluation: Evaluation, album: Album, told: Mapping[str, Any]) -> list[Gallery]:
    """Return each group of pictures; all groups share one budget of bytes."""
    strengths = told.get("scales", {})
    files = [file for columns in album.groups.values() for file in files_of(columns)]
    uris, exact = inline_pictures(files), are_small(files)
    labels = {name: f"step {entry.get('step')}" for name, entry in evaluation.checkpoints.items() if name != BASE}
    scales = [f"{entry['scale']:g}" for entry in strengths.get("entries", [])]
    labels |= {f"{strengths.get('checkpoint')} x {scale}": f"× {scale}" for scale in scales}
    galleries = []
    for group, columns in album.groups.items():
        drawn = [i for rows in columns.values() for row in rows for i, file in enumerate(row) if file]
        seeds = album.seeds[: max(drawn) + 1]  # strengths are drawn at the first alone
        named = labels | {BASE: Path(told["fast_look"]["model"]).name} if group == DISTILLED else labels
        galleries.append(Gallery(group, columns, named, album.prompts, seeds, uris, exact, evaluation.recommended))
    return galleries


def _others(grid: Path | None) -> str:
    if grid is None or not grid.is_file():
        return ""
    with Image.open(grid) as picture:
        return inline_thumbnail(picture, max(picture.size))


def _front(entries: Entries, chosen: str | None) -> Chart | None:
    """Return concept against prompts, or nothing where there is nothing to compare."""
    dots, axes = [], _FRONT if any(_FRONT[0] in entry for entry in entries.values()) else _ONE_PROMPT
    for name, entry in entries.items():
        across, up = (interval_of(entry.get(metric)) for metric in axes)
        if across and up:
            dots.append(Dot(name, name if name == BASE else str(entry.get("step", name)), across, up, _kind(name, entry)))
    return front_chart((describe(axes[0]).label, describe(axes[1]).label), dots, chosen) if len(dots) > 1 else None


def _kind(name: str, entry: Mapping[str, Any]) -> Literal["front", "beaten", "out", "base"]:
    if name == BASE:
        return "base"
    if entry.get("objections"):
        return "out"
    return "front" if entry.get("on_front") else "beaten"


def _thumbnails(
    folder: Path, train: tuple[PictureItem, ...], held_out: tuple[PictureItem, ...]
) -> list[tuple[PictureItem, str, str]]:
    """Return some pictures, each with its URI, and `held` for one that was held out."""
    fewer = _MOST_THUMBNAILS // 3
    shown = [(item, "") for item in train[: _MOST_THUMBNAILS - min(len(held_out), fewer)]]
    shown += [(item, "held") for item in held_out[:fewer]]
    return [(item, inline_thumbnail(decode_picture(folder / item.picture), _THUMBNAIL_SIDE), kind) for item, kind in shown]
