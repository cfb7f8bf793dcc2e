"""What a new version does otherwise than the champion: pictures side by side, scores, parameters, data, what both were made from.

It depends on what the store holds, so `register` writes it and keeps it with the new version's run; no stage that DVC caches may.
"""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.pages.axis import show_exactly
from tasks.pages.gallery import Gallery, render_gallery
from tasks.pages.inline import inline_pictures
from tasks.pages.page import Section, escape, render_page, table
from tasks.pages.scores import BASE, estimate_of, metric_head, metric_names, show_estimate
from tasks.register.data_changes_words import SinceChampion, list_changes, say_since
from tasks.register.facts import RunFacts
from tasks.results.album import CHECKPOINTS, Album, are_small, read_album
from tasks.results.evaluation import read_evaluation
from tasks.tracking import runs
from tasks.tracking.store import Store
from tlora.errors import CheckpointError
from tlora.runtime.atomic_file import write_text

if TYPE_CHECKING:
    from tasks.registry.versions import ModelVersion

METRICS, PICTURES = "metrics", "pictures"  # among a run's artifacts: what later versions are compared with
REPORTS, PAGE = Path("reports"), Path("register", "champion.html")  # among a run's artifacts, and below the folder of reports
CHAMPION_COLUMN, NEW_COLUMN = "champion", "new"
_KEPT = "champion_page"  # tag of a run: hash of the page that it keeps
_MADE_FROM = {
    "base_revision": "Base revision",
    "rank_schedule": "Rank schedule",
    "data_digest": "Data digest",
    "params_digest": "Parameters digest",
    "code_digest": "Code digest",
    "evaluation_digest": "Evaluation digest",
}


@dataclass(frozen=True)
class ComparedVersion:
    """One of the two versions.

    Args:
        title: What it is called on the page.
        checkpoint: Which checkpoint it holds.
        scores: Its entry of metrics/evaluate.json; empty if that is not known.
        params: Its hyperparameters, section, dot, key.
        tags: What it was made from.
        album: Pictures of it and of the base, or None if none were kept.
    """

    title: str
    checkpoint: str
    scores: Mapping[str, Any]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    album: Album | None


def write_champion_page(
    store: Store, facts: RunFacts, new: "ModelVersion", champion: "ModelVersion", since: SinceChampion, pictures: Path, page: Path
) -> None:
    """Write the page and keep it with the new version's run.

    Args:
        store: Where.
        facts: Of the new version.
        new: The new version.
        champion: The version that holds the alias, another one.
        since: What changed in the data since the champion's.
        pictures: Album of the new version's evaluation.
        page: Output file.
    """
    choice, title = facts.choice, f"version {new.version}"
    ours = ComparedVersion(title, choice.name, choice.scores, facts.params(), facts.tags, read_album(pictures))
    with tempfile.TemporaryDirectory() as kept:
        theirs = _read_champion(store, champion, Path(kept))
        write_text(page, render_comparison(new.name, ours, theirs, since))
    digest = hashlib.sha256(page.read_bytes()).hexdigest()
    run = store.client.get_run(str(new.run_id))
    if run.data.tags.get(_KEPT) != digest:
        runs.log_files(store, run.info.run_id, {str((REPORTS / PAGE).parent): page})
        store.client.set_tag(run.info.run_id, _KEPT, digest)


def render_comparison(name: str, new: ComparedVersion, champion: ComparedVersion, since: SinceChampion) -> str:
    """Return the page.

    Args:
        name: Of the registered model.
        new: The version that was registered.
        champion: The version that holds the alias.
        since: What changed in the data.
    """
    comparable = new.tags.get("evaluation_digest") == champion.tags.get("evaluation_digest")
    held = [f"{escape(one.title)} holds {escape(one.checkpoint)}" for one in (new, champion)]
    opening = f"<p>{_sentence('; '.join(held))}</p>"
    if not comparable:
        warning = "Prompts, seeds, evaluator or pictures are others, so no number of one says anything about the other."
        opening += f'<div class="verdict none"><strong>Not measured alike</strong><p>{warning}</p></div>'
    sections = [
        Section("pictures-champion", "Pictures", _gallery(new, champion), "Same prompt, same seed."),
        Section("scores", "Scores", _scores(new, champion, comparable)),
        _params(new, champion),
        Section("data", "Data", _data(since), _sentence(escape(say_since(since)))),
        Section("made-from", "Made from", _made_from(new, champion)),
    ]
    return render_page(f"{name}: {new.title} against {champion.title}", opening, sections)


def _gallery(new: ComparedVersion, champion: ComparedVersion) -> str:
    """Return the pictures of prompts and seeds that both were drawn with."""
    if new.album is None or champion.album is None:
        return "<p>The champion's run keeps no pictures.</p>"
    prompts = [prompt for prompt in new.album.prompts if prompt in champion.album.prompts]
    seeds = [seed for seed in new.album.seeds if seed in champion.album.seeds]
    if not prompts or not seeds:
        return "<p>No prompt was drawn from the same noise by both.</p>"
    columns = {
        CHAMPION_COLUMN: _rows(champion.album, champion.checkpoint, prompts, seeds),
        NEW_COLUMN: _rows(new.album, new.checkpoint, prompts, seeds),
        BASE: _rows(new.album, BASE, prompts, seeds),
    }
    columns = {column: rows for column, rows in columns.items() if rows}
    labels = {CHAMPION_COLUMN: champion.title, NEW_COLUMN: new.title}
    gallery = Gallery("champion", columns, labels, prompts, seeds)
    files = [file for rows in columns.values() for row in rows for file in row]
    return render_gallery(gallery, inline_pictures(files), are_small(files))


def _rows(album: Album, column: str, prompts: Sequence[str], seeds: Sequence[int]) -> list[list[Path]]:
    rows = album.groups.get(CHECKPOINTS, {}).get(column)
    if rows is None:
        return []
    return [[rows[album.prompts.index(prompt)][album.seeds.index(seed)] for seed in seeds] for prompt in prompts]


def _scores(new: ComparedVersion, champion: ComparedVersion, comparable: bool) -> str:
    rows = []
    for metric in metric_names({NEW_COLUMN: new.scores, CHAMPION_COLUMN: champion.scores}):
        ours, theirs = estimate_of(new.scores.get(metric)), estimate_of(champion.scores.get(metric))
        difference = show_exactly(ours.mean - theirs.mean, signed=True) if comparable and ours and theirs else "–"
        rows.append([metric_head(metric), show_estimate(theirs), show_estimate(ours), difference])
    return table(["metric", escape(champion.title), escape(new.title), "difference"], rows)


def _params(new: ComparedVersion, champion: ComparedVersion) -> Section:
    names = sorted({*new.params, *champion.params})
    changed = [name for name in names if new.params.get(name) != champion.params.get(name)]
    rows = [[f"<code>{escape(n)}</code>", _value(champion.params.get(n)), _value(new.params.get(n))] for n in changed]
    lead = f"{len(changed)} of {len(names)} differ." if changed else f"All {len(names)} are the same."
    body = table(["parameter", escape(champion.title), escape(new.title)], rows) if rows else ""
    return Section("params", "Parameters", body, lead)


def _value(value: str | None) -> str:
    return "–" if value is None else f"<code>{escape(value) or '(empty)'}</code>"


def _data(since: SinceChampion) -> str:
    listed = list_changes(since.changes, _value) if since.changes else []
    return "".join(f"<h3>{title}</h3><ul>{''.join(f'<li>{row}</li>' for row in rows)}</ul>" for title, rows in listed)


def _made_from(new: ComparedVersion, champion: ComparedVersion) -> str:
    rows = []
    for tag, label in _MADE_FROM.items():
        ours, theirs = new.tags.get(tag), champion.tags.get(tag)
        if ours or theirs:
            rows.append([label, _value(theirs), "the same" if ours == theirs else _value(ours)])
    return table(["", escape(champion.title), escape(new.title)], rows)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _read_champion(store: Store, version: "ModelVersion", folder: Path) -> ComparedVersion:
    """Return the champion as its run keeps it, files copied into a folder."""
    run = store.client.get_run(str(version.run_id))
    metrics = runs.fetch_folder(store, run.info.run_id, METRICS, folder)
    pictures = runs.fetch_folder(store, run.info.run_id, PICTURES, folder)
    checkpoint = version.tags.get("checkpoint", "")
    scores = _read_scores(metrics / "evaluate.json", checkpoint) if metrics else {}
    title = f"champion (version {version.version})"
    return ComparedVersion(title, checkpoint, scores, run.data.params, version.tags, read_album(pictures) if pictures else None)


def _read_scores(file: Path, checkpoint: str) -> Mapping[str, Any]:
    """Return a checkpoint's numbers; none where an older version of this code wrote the file: that stops no registration."""
    try:
        return read_evaluation(file).checkpoints.get(checkpoint, {})
    except CheckpointError:
        return {}
