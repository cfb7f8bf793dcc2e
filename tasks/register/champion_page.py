"""What a new version does otherwise than the champion: pictures side by side, scores, parameters, data, what both were made from.

It depends on what the store holds, so `register` writes it and keeps it with the new version's run; no stage that DVC caches may.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from tasks.pages.gallery import Gallery
from tasks.pages.inline import inline_pictures
from tasks.pages.page import render_page
from tasks.pages.scores import interval_of, metric_names
from tasks.register.data_changes_words import SinceChampion, list_changes, say_since
from tasks.register.facts import RunFacts
from tasks.registry.names import CHAMPION
from tasks.results.album import CHECKPOINTS, Album, are_small, files_of, read_album
from tasks.results.evaluation import read_evaluation
from tasks.tracking import runs
from tasks.tracking.store import Store
from tlora.errors import CheckpointError
from tlora.evaluation.intervals import Interval
from tlora.evaluation.metric_words import Metric, describe
from tlora.metadata.adapter import BASE
from tlora.runtime.atomic_file import write_text

if TYPE_CHECKING:
    from tasks.registry.versions import ModelVersion

METRICS, PICTURES = "metrics", "pictures"  # among a run's artifacts: what later versions are compared with
REPORTS, PAGE = Path("reports"), Path("register", "champion.html")  # among a run's artifacts, and below the folder of reports
CHAMPION_COLUMN, NEW_COLUMN = CHAMPION, "new"
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
        scores: Its entry of reports/evaluate/evaluate.json; empty if that is not known.
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
    run = store.client.get_run(str(new.run_id))  # its parameters: MLflow adds how the model is served to both
    ours = ComparedVersion(title, choice.name, choice.scores, run.data.params, facts.tags, read_album(pictures))
    with tempfile.TemporaryDirectory() as kept:
        theirs = _read_champion(store, champion, Path(kept))
        write_text(page, render_comparison(new.name, ours, theirs, since))
    digest = hashlib.sha256(page.read_bytes()).hexdigest()
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
    names = sorted({*new.params, *champion.params})
    params = [(name, champion.params.get(name), new.params.get(name)) for name in names]
    origins = [(label, champion.tags.get(tag), new.tags.get(tag)) for tag, label in _MADE_FROM.items()]
    comparable = new.tags.get("evaluation_digest") == champion.tags.get("evaluation_digest")
    values = {
        "title": f"{name}: {new.title} against {champion.title}",
        "new": new,
        "champion": champion,
        "comparable": comparable,
        "shown": _gallery(new, champion),
        "scores": list(_scores(new, champion, comparable)),
        "params": [(name, theirs, ours) for name, theirs, ours in params if theirs != ours],
        "count": len(names),
        "since": say_since(since),
        "changes": list_changes(since.changes, _code) if since.changes else [],
        "made_from": [(label, theirs, ours) for label, theirs, ours in origins if theirs or ours],
    }
    return render_page("register/champion_page.html", values)


def _gallery(new: ComparedVersion, champion: ComparedVersion) -> Gallery | str:
    """Return the pictures of prompts and seeds that both were drawn with, or why there are none."""
    if new.album is None or champion.album is None:
        return "The champion's run keeps no pictures."
    prompts = [prompt for prompt in new.album.prompts if prompt in champion.album.prompts]
    seeds = [seed for seed in new.album.seeds if seed in champion.album.seeds]
    if not prompts or not seeds:
        return "No prompt was drawn from the same noise by both."
    columns = {
        CHAMPION_COLUMN: _rows(champion.album, champion.checkpoint, prompts, seeds),
        NEW_COLUMN: _rows(new.album, new.checkpoint, prompts, seeds),
        BASE: _rows(new.album, BASE, prompts, seeds),
    }
    columns = {column: rows for column, rows in columns.items() if rows}
    labels = {CHAMPION_COLUMN: champion.title, NEW_COLUMN: new.title}
    files = files_of(columns)
    return Gallery(CHAMPION, columns, labels, prompts, seeds, inline_pictures(files), are_small(files))


def _rows(album: Album, column: str, prompts: Sequence[str], seeds: Sequence[int]) -> list[list[Path | None]]:
    rows = album.groups.get(CHECKPOINTS, {}).get(column)
    if rows is None:
        return []
    return [[rows[album.prompts.index(prompt)][album.seeds.index(seed)] for seed in seeds] for prompt in prompts]


def _scores(
    new: ComparedVersion, champion: ComparedVersion, comparable: bool
) -> Iterator[tuple[Metric, Interval | None, Interval | None, float | None]]:
    """Yield each metric of the champion and of the new version, and the difference where there is one."""
    for metric in metric_names({NEW_COLUMN: new.scores, CHAMPION_COLUMN: champion.scores}):
        ours, theirs = interval_of(new.scores.get(metric)), interval_of(champion.scores.get(metric))
        yield describe(metric), theirs, ours, ours.mean - theirs.mean if comparable and ours and theirs else None


def _code(text: str) -> Markup:
    return Markup("<code>{}</code>").format(text or "(empty)")


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
