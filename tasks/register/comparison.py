"""Writes the page that compares a new version with the champion, and keeps it with the new version's run."""

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.register.champion_page import Contender, render_comparison
from tasks.register.data_changes_words import SinceChampion
from tasks.register.facts import Story
from tasks.results.album import read_album
from tasks.results.evaluation import read_evaluation
from tasks.tracking import runs
from tasks.tracking.store import Store
from tlora.errors import CheckpointError
from tlora.runtime.atomic_file import write_text

if TYPE_CHECKING:
    from tasks.registry.versions import ModelVersion

METRICS, PICTURES = "metrics", "pictures"  # among a run's artifacts: what later versions are compared with
REPORTS, PAGE = Path("reports"), Path("register", "champion.html")  # among a run's artifacts, and below the folder of reports
_KEPT = "champion_page"  # tag of a run: hash of the page that it keeps


@dataclass(frozen=True)
class Meeting:
    """A new version and the champion that it meets.

    Args:
        new: The new version.
        champion: The version that holds the alias; None if none does.
        since: What changed in the data since the champion's.
    """

    new: "ModelVersion"
    champion: "ModelVersion | None"
    since: SinceChampion


def show_comparison(store: Store, story: Story, meeting: Meeting, pictures: Path, page: Path) -> bool:
    """Write the page and keep it with the new version's run; return whether there was a champion to compare with.

    Args:
        store: Where.
        story: Of the new version.
        meeting: Both versions.
        pictures: Album of the new version's evaluation.
        page: Output file.
    """
    new, champion = meeting.new, meeting.champion
    if champion is None or champion.version == new.version:
        return False
    choice, title = story.choice, f"version {new.version}"
    ours = Contender(title, choice.name, choice.scores, story.params(), story.tags, read_album(pictures))
    with tempfile.TemporaryDirectory() as kept:
        theirs = _champion(store, champion, Path(kept))
        write_text(page, render_comparison(new.name, ours, theirs, meeting.since))
    digest = hashlib.sha256(page.read_bytes()).hexdigest()
    run = store.client.get_run(str(new.run_id))
    if run.data.tags.get(_KEPT) != digest:
        runs.log_files(store, run.info.run_id, {str((REPORTS / PAGE).parent): page})
        store.client.set_tag(run.info.run_id, _KEPT, digest)
    return True


def _champion(store: Store, version: "ModelVersion", folder: Path) -> Contender:
    """Return the champion as its run keeps it, files copied into a folder."""
    run = store.client.get_run(str(version.run_id))
    metrics = runs.fetch_folder(store, run.info.run_id, METRICS, folder)
    pictures = runs.fetch_folder(store, run.info.run_id, PICTURES, folder)
    checkpoint = version.tags.get("checkpoint", "")
    scores = _scores(metrics / "evaluate.json", checkpoint) if metrics else {}
    title = f"champion (version {version.version})"
    return Contender(title, checkpoint, scores, run.data.params, version.tags, read_album(pictures) if pictures else None)


def _scores(file: Path, checkpoint: str) -> Mapping[str, Any]:
    """Return a checkpoint's numbers; none where an older version of this code wrote the file: that stops no registration."""
    try:
        return read_evaluation(file).checkpoints.get(checkpoint, {})
    except CheckpointError:
        return {}
