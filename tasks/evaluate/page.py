"""The report that a person opens after training: which checkpoint and why, the pictures, the curves, and what it was made from.

Built from the files that evaluation left, so a number that is new in metrics/evaluate.json shows by itself. Nothing in it that
is not a function of the inputs: DVC hashes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.evaluate.front_figure import front_figure
from tasks.pages.axis import show_exactly
from tasks.pages.charts import Estimate
from tasks.pages.gallery import Gallery, render_gallery
from tasks.pages.inline import inline_pictures, inline_thumbnail
from tasks.pages.metric_words import describe
from tasks.pages.page import Section, escape, facts, render_page
from tasks.pages.scores import BASE, curves, estimate_of, in_order, number_table, score_table
from tasks.results.album import CHECKPOINTS, SCALES, Album, are_small, read_album
from tasks.results.evaluation import Evaluation, read_evaluation, read_json
from tasks.results.lineage import adapter_lineage, evaluation_lineage, listing
from tlora.metadata.adapter import AdapterMetadata
from tlora.pictures.decode import decode_picture
from tlora.pictures.manifest import PictureItem, read_manifest

_HEADLINE = ("similarity_gain", "prompt_following", "diversity_ratio")
_MOST_THUMBNAILS, _THUMBNAIL_SIDE = 36, 160


@dataclass(frozen=True)
class EvaluationFiles:
    """What the page is built from.

    Args:
        metrics: metrics/evaluate.json.
        album: Folder of the pictures.
        manifest: Training pictures.
        held_out: Held-out pictures.
        data: Folder of these pictures.
    """

    metrics: Path
    album: Path
    manifest: Path
    held_out: Path
    data: Path


def render_evaluation(files: EvaluationFiles, adapter: AdapterMetadata) -> str:
    """Return the page.

    Args:
        files: What it is built from.
        adapter: Metadata of any of the checkpoints.
    """
    evaluation, album = read_evaluation(files.metrics), read_album(files.album)
    entries, chosen, told = evaluation.checkpoints, evaluation.recommended, read_json(files.metrics)
    front = front_figure(entries, chosen)
    sections = [
        *_galleries(evaluation, album, told.get("scales", {})),
        *([Section("front", "Concept against prompts", front, _FRONT_LEAD)] if front else []),
        Section("curves", "Curves", curves(entries, chosen), _CURVES_LEAD),
        Section("scores", "Scores", score_table(entries, chosen)),
        _data(files),
        _lineage(files, evaluation, adapter, told.get("rule", {})),
    ]
    return render_page(f"{adapter.concept} on {Path(adapter.base).name}: evaluation", _opening(evaluation, album), sections)


_FRONT_LEAD = (
    "Up: the concept is learnt. Right: prompts are still followed. Further training usually buys the first with the second;"
    " numbers are training steps."
)
_CURVES_LEAD = (
    "Mean and 95&nbsp;% interval by bootstrap over prompts and seeds. Dashed: the bare base. Ringed: the recommended checkpoint."
)


def _opening(evaluation: Evaluation, album: Album) -> str:
    chosen = evaluation.recommended
    kind, verdict = ("", f"Recommended: {chosen}") if chosen else (" none", "No checkpoint is recommended")
    shown = chosen or in_order(evaluation.checkpoints)[-1]
    numbers = "".join(_number(name, estimate_of(evaluation.checkpoints.get(shown, {}).get(name))) for name in _HEADLINE)
    count = len(evaluation.checkpoints) - (BASE in evaluation.checkpoints)
    whose = "" if chosen else f"Numbers of the last, {escape(shown)}. "
    drawn = f"{count} checkpoints and the bare base, {len(album.prompts)} prompts at {len(album.seeds)} seeds each."
    missing = "".join(f'<p class="lead">Not measured: {escape(reason)}.</p>' for reason in evaluation.failures)
    return (
        f'<div class="verdict{kind}"><strong>{escape(verdict)}</strong><p>{escape(evaluation.reason)}.</p></div>\n{missing}'
        f'<div class="numbers">{numbers}</div>\n<p class="lead">{whose}{drawn}</p>'
    )


def _number(name: str, number: Estimate | None) -> str:
    if number is None:
        return ""
    metric = describe(name)
    mean, low, high = (show_exactly(value, signed=metric.is_difference) for value in (number.mean, number.low, number.high))
    interval = f"{low} to {high}" if number.is_interval else "without interval"
    return f'<div class="number"><span>{escape(metric.label)}</span><b>{mean}</b><span>{interval}</span></div>'


def _galleries(evaluation: Evaluation, album: Album, strengths: Mapping[str, Any]) -> list[Section]:
    """Return a section for each group of pictures; all groups share one budget of bytes."""
    files = [file for columns in album.groups.values() for rows in columns.values() for row in rows for file in row]
    uris, exact = inline_pictures(files), are_small(files)
    labels = {name: f"step {entry.get('step')}" for name, entry in evaluation.checkpoints.items() if name != BASE}
    shown, entries = strengths.get("checkpoint"), {f"{entry['scale']:g}": entry for entry in strengths.get("entries", [])}
    labels |= {f"{shown} x {scale}": f"× {scale}" for scale in entries}
    titles = {CHECKPOINTS: "Pictures", SCALES: f"Strengths of {shown}"}
    below = {SCALES: number_table("strength", {f"× {scale}": entry for scale, entry in entries.items()}) if entries else ""}
    sections = []
    for group, columns in album.groups.items():
        seeds = album.seeds[: min(len(row) for rows in columns.values() for row in rows)]
        gallery = Gallery(group, columns, labels, album.prompts, seeds, evaluation.recommended)
        body = render_gallery(gallery, uris, exact) + below.get(group, "")
        sections.append(Section(f"pictures-{group}", titles.get(group, group.capitalize()), body))
    return sections


def _data(files: EvaluationFiles) -> Section:
    train, held_out = read_manifest(files.manifest).items, read_manifest(files.held_out).items
    fewer = _MOST_THUMBNAILS // 3
    shown = [(item, "") for item in train[: _MOST_THUMBNAILS - min(len(held_out), fewer)]]
    shown += [(item, "held") for item in held_out[:fewer]]
    figures = "".join(_thumbnail(files.data, item, kind) for item, kind in shown)
    total = len(train) + len(held_out)
    fraction = f" {len(shown)} of {total} are shown." if len(shown) < total else ""
    lead = (
        f"{len(train)} pictures trained on, {len(held_out)} held out (framed).{fraction}"
        ' Beside this file: <a href="../validate/report.html">the data report</a>, with every finding.'
    )
    return Section("data", "The data", f'<div class="sheet">{figures}</div>', lead)


def _thumbnail(folder: Path, item: PictureItem, kind: str) -> str:
    uri = inline_thumbnail(decode_picture(folder / item.picture), _THUMBNAIL_SIDE)
    caption = f"{escape(item.picture)}<br>{escape(item.caption) or '<i>no caption</i>'}"
    alt = escape(item.caption or item.picture)
    return f'<figure class="{kind}"><img alt="{alt}" src="{uri}"><figcaption>{caption}</figcaption></figure>'


def _lineage(files: EvaluationFiles, evaluation: Evaluation, adapter: AdapterMetadata, rule: Mapping[str, Any]) -> Section:
    setup = evaluation.setup
    told = adapter_lineage(adapter) | evaluation_lineage(setup, read_manifest(files.manifest), read_manifest(files.held_out))
    told["Rule of choice"] = listing(rule)
    pairs = [(name, f"<code>{escape(value)}</code>" if value else "") for name, value in told.items()]
    listed = "".join(f"<li>{escape(prompt)}</li>" for prompt in setup["prompts"])
    return Section(
        "lineage", "Made from", facts([*pairs, ("Prompts", f"<ol>{listed}</ol>")]), "Equal inputs make an equal report."
    )
