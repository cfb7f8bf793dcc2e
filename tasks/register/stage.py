"""Stage: show the files in MLflow and register the adapter, as far as the store does not have them already.

The one stage with a side effect, and so the one that runs every time: another store, or a deleted one, is filled again from
the files with nothing trained. The second time it says "already version 3" and changes nothing.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.register.champion_page import METRICS, PAGE, PICTURES, REPORTS, write_champion_page
from tasks.register.choice import choose_checkpoint, objection_to_champion
from tasks.register.data_changes import compare_splits
from tasks.register.data_changes_words import SinceChampion, say_since, since_to_markdown
from tasks.register.facts import Folders, RunFacts, licence_tags, read_facts
from tasks.register.mlflow_page import (
    GRID,
    PREVIEW,
    PREVIEW_WIDTH,
    comparable_runs,
    metrics_table,
    model_introduction,
    model_page,
)
from tasks.register.registration import Registration, leave_registration
from tasks.register.restoring import Present, RunFiles, made_of, restore_registry
from tasks.registry import versions
from tasks.registry.decisions import Decision, now, record
from tasks.registry.held_files import note_code, repair_version
from tasks.registry.names import CHALLENGER, CHAMPION, registered_name
from tasks.registry.promotion import had_champion, leave_trail, objection_to_origin
from tasks.registry.trust import (
    SIGNED_BY,
    find_unsigned,
    leave_signature,
    public_key_text,
    sign_version,
)
from tasks.registry.verdict import PromoteSettings
from tasks.results.album import parts_of_album
from tasks.results.evaluation import read_evaluation
from tasks.tracking import runs
from tasks.tracking.store import (
    Store,
    explained_failures,
    open_store,
    passing_store,
    public_uri,
    run_address,
    version_address,
)
from tlora.errors import CheckpointError
from tlora.flux.spec import ModelSpec
from tlora.metadata.adapter import BASE
from tlora.pictures.manifest import read_split
from tlora.runtime.atomic_file import write_text
from tlora.trust.licences import LicenceSettings
from tlora.trust.settings import TrustSettings

if TYPE_CHECKING:
    from tasks.registry.versions import ModelVersion

MANIFEST = "manifest"  # among the run's artifacts: what later versions of the data are compared with
SHOWN = "metrics_digest"  # tag: which evaluation a run or a version shows; written last, so it also means "complete"


def register(
    model: ModelSpec,
    trust: TrustSettings,
    licence: LicenceSettings,
    promote: PromoteSettings,
    *,
    adapters: Path,
    metrics: Path,
    grids: Path,
    pictures: Path,
    recommended: Path,
    reports: Path,
    manifest: Path,
    concept: Path,
    data: Path = Path("data.dvc"),
) -> None:
    """Show the run in MLflow and register the adapter that the evaluation recommends, or else the last.

    Args:
        model: Section `model`.
        trust: Section `trust`: who signs, and whose signature a champion needs.
        licence: Section `licence`.
        promote: Section `promote`: which licences a champion needs.
        adapters: Folder of checkpoints.
        metrics: The evaluation, JSON.
        grids: Folder of its grids.
        pictures: Folder of its single pictures.
        recommended: Folder of the checkpoint that it recommends.
        reports: Folder of the stages' reports; `register/` is written there: data_changes.md, what changed in the data since the
            champion's, and champion.html, which compares with the champion.
        manifest: Folder of both manifests.
        concept: concept.yaml.
        data: What `dvc add` wrote about the data folder.
    """
    files = RunFiles(
        adapters=adapters,
        recommended=recommended,
        metrics=metrics,
        grids=grids,
        pictures=pictures,
        reports=reports,
        manifest=manifest,
        data=data,
        concept=concept,
    )
    choice = choose_checkpoint(adapters, recommended, read_evaluation(metrics))
    if choice.metadata.base != model.path:
        raise CheckpointError(f"{choice.folder}: trained on {choice.metadata.base}, model.path is {model.path}: run train again")
    name = registered_name(model, choice.metadata.concept)
    with explained_failures():
        store = open_store()
        restored = restore_registry(
            store,
            Present(name, choice.digest, model, files),
            lambda spec, found: _show(store, spec, found, trust, licence).version,
            lambda version: objection_to_origin(store, version, promote, trust),
        )
        shown = _show(store, model, files, trust, licence)
        version = shown.version
        objection = shown.facts.objection or objection_to_origin(store, version, promote, trust) or None
        placed = _place_aliases(store, version, objection)
        if shown.is_new or placed or "evaluated anew" in shown.done:
            branch = {versions.BRANCH: shown.facts.tags[versions.BRANCH]} if shown.facts.tags[versions.BRANCH] else {}
            made = made_of(model, files, shown.facts.dataset.digest)
            record(Decision(now(), "registered", name, str(version.version), choice.digest, branch, made))
        if CHAMPION in placed:
            told = {"by": "the evaluation", "why": "the first version that the evaluation recommends"}
            leave_trail(store, name, str(version.version), "promoted", told)
        aliases = versions.aliases_of(store, name)
        leave_registration(_registration(store, version, shown.run_id, aliases))
    mine = sorted(alias for alias, number in aliases.items() if number == str(version.version))
    for line in restored:
        print(f"register: {line}")
    print(f"register: {', '.join([*shown.done, *(f'now {alias}' for alias in placed)])}")
    print(f"register: {say_since(shown.since)}")
    if CHAMPION not in mine and objection:
        print(f"register: not champion: {objection}")
    print(f"report:    {reports / 'evaluate' / 'report.html'}")
    if (reports / PAGE).exists():
        print(f"champion:  {reports / PAGE} compares with it")
    if shown.facts.evaluation.recommended:
        print(f"adapter:   {recommended}, for tlora infer, card and export")
        if signature := leave_signature(store, version, recommended):
            print(f"signature: {signature}, by {version.tags[SIGNED_BY]}")
    _say_where(store, version, mine, grids)


@dataclass(frozen=True)
class _Shown:
    """A version as the store has it now: from which run, what its files say, and what was done."""

    version: "ModelVersion"
    run_id: str
    facts: RunFacts
    since: SinceChampion
    is_new: bool
    done: list[str]


def _show(store: Store, model: ModelSpec, files: RunFiles, trust: TrustSettings, licence: LicenceSettings) -> _Shown:
    """Show files as a run and a version, as far as the store has them not yet; aliases stay as they are."""
    evaluation = read_evaluation(files.metrics)
    choice = choose_checkpoint(files.adapters, files.recommended, evaluation)
    objection = objection_to_champion(choice, evaluation)
    facts = read_facts(choice, evaluation, objection, Folders(files.reports, files.manifest, files.data), licence)
    name = registered_name(model, choice.metadata.concept)
    champion = versions.find_alias(store, name, CHAMPION)
    since = _since_champion(store, champion, files.manifest)
    write_text(files.reports / "register" / "data_changes.md", since_to_markdown(since))
    page = files.reports / PAGE
    page.unlink(missing_ok=True)  # of an earlier version
    artifacts = {str(REPORTS): files.reports, METRICS: files.metrics, MANIFEST: files.manifest}
    artifacts |= {"concept": files.concept} if files.concept else {}
    artifacts |= parts_of_album(files.pictures, {BASE, choice.name}, PICTURES)
    run_id = _show_run(store, facts, since, files.grids, artifacts)
    is_new = versions.find_version(store, name, choice.digest) is None
    served = versions.ServedModel(choice.folder, model, evaluation.setup["drawing"], public_key_text(trust))
    version, done = _show_version(store, facts, since, served, run_id, trust.signs_with)
    if champion and champion.version != version.version:
        write_champion_page(store, facts, version, champion, since, files.pictures, page)
    return _Shown(version, run_id, facts, since, is_new, done)


def _since_champion(store: Store, champion: "ModelVersion | None", manifest: Path) -> SinceChampion:
    if champion is None:
        return SinceChampion(None, None)
    with tempfile.TemporaryDirectory() as folder:
        kept = runs.fetch_folder(store, champion.run_id, MANIFEST, Path(folder)) if champion.run_id else None
        changes = compare_splits(read_split(kept), read_split(manifest)) if kept else None
    return SinceChampion(str(champion.version), changes)


def _show_run(store: Store, facts: RunFacts, since: SinceChampion, grids: Path, artifacts: dict[str, Path]) -> str:
    """Complete the run of the adapter and return its id."""
    run = runs.find_or_create_run(store, facts.choice.metadata, facts.started)
    run_id = run.info.run_id
    if run.data.tags.get(SHOWN) == facts.evaluation.digest and runs.keeps(store, run_id, artifacts):
        return run_id
    points = [point for line in facts.log for point in runs.training_points(line)]
    points += [point for scores in facts.evaluation.checkpoints.values() for point in runs.evaluation_points(scores)]
    known = runs.known_points(store, run_id, {point.key for point in points})
    runs.log_points(store, run_id, [point for point in points if point not in known])
    dataset = facts.dataset
    runs.log_dataset(store, run, facts.choice.metadata.concept, dataset.digest, dataset.path, dataset.pictures)
    pictures = {int(scores["step"]): grids / f"{name}.png" for name, scores in facts.evaluation.checkpoints.items()}
    runs.log_pictures(store, run_id, "grid", pictures, again=SHOWN in run.data.tags)
    runs.log_pictures(store, run_id, runs.PREVIEW_SERIES, facts.previews, again=False)
    runs.log_preview(store, run_id, grids / "grid.png", PREVIEW, PREVIEW_WIDTH)
    runs.log_files(store, run_id, {**artifacts, str(Path(GRID).parent): grids / "grid.png"})
    system = {"mlflow.source.git.commit": facts.tags["git_commit"], "mlflow.note.content": _page(store, facts, since, run_id)}
    tags = {**facts.tags, **system, "host": str(facts.record.get("host", "")), SHOWN: facts.evaluation.digest}
    runs.log_params_and_tags(store, run, facts.params(), tags)
    store.client.set_terminated(run_id, "FINISHED", facts.ended)
    return run_id


def _show_version(
    store: Store, facts: RunFacts, since: SinceChampion, served: versions.ServedModel, run_id: str, key: Path | None
) -> "tuple[ModelVersion, list[str]]":
    """Return the version that holds the adapter, made if there is none and signed if there is a key, and what was done."""
    choice, tags = facts.choice, dict(facts.tags)
    name = registered_name(served.base, choice.metadata.concept)
    tags |= {"checkpoint": choice.name, "step": str(choice.metadata.step)}
    tags["recommended"] = "true" if facts.evaluation.recommended else "false"
    version = versions.find_version(store, name, choice.digest)
    if version is None:
        tags_of_it = tags | {versions.ADAPTER_DIGEST: choice.digest}
        version = versions.create_version(
            store, run_id, choice.folder, served.base, served.drawing, tags_of_it, served.public_key
        )
        note_code(store, version)
        told = choice.metadata
        versions.introduce_model(store, name, model_introduction(told.concept, told.trigger, told.base))
        done, sign_it = [f"registered version {version.version} of {name}"], key is not None
    else:
        done = [f"already version {version.version} of {name}"]
        unsigned = find_unsigned(store, version, key) if key else ""
        if damage := repair_version(store, version, served, unsigned):
            done.append(
                f"written again from {choice.folder}, since it was {unsigned}"
                if damage == unsigned
                else f"repaired from {choice.folder}, since {damage}"
            )
        sign_it = bool(key and damage)
        if version.tags.get(SHOWN) != facts.evaluation.digest:
            done.append("evaluated anew")
    if version.tags.get(SHOWN) != facts.evaluation.digest:
        store.client.update_model_version(name, version.version, _page(store, facts, since, run_id))
        versions.set_version_tags(store, version, {**tags, SHOWN: facts.evaluation.digest})
    versions.set_version_tags(store, version, licence_tags(facts.licences))
    if key and sign_it:
        done.append(f"signed by {sign_version(store, version, key)}")
    return store.client.get_model_version(name, version.version), done  # with the tags that were just written


def _place_aliases(store: Store, version: "ModelVersion", objection: str | None) -> list[str]:
    """Make the version challenger, and champion if there never was one and the gate holds; return the aliases that moved.

    A champion that was lost is nobody's place to take unasked.
    """
    aliases = versions.aliases_of(store, version.name)
    number = str(version.version)
    if aliases.get(CHAMPION) == number:
        return []
    taken = CHAMPION in aliases or objection or had_champion(store, version.name)
    wanted = [CHALLENGER] if taken else [CHALLENGER, CHAMPION]
    new = [alias for alias in wanted if aliases.get(alias) != number]
    for alias in new:
        store.client.set_registered_model_alias(version.name, alias, number)
    return new


def _registration(store: Store, version: "ModelVersion", run_id: str, aliases: Mapping[str, str]) -> Registration:
    """Return what is told of the version; the champion is measured against only if it is another one."""
    number, champion = str(version.version), aliases.get(CHAMPION, "")
    other = store.client.get_model_version(version.name, champion) if champion not in ("", number) else None
    mine = store.client.get_model_version(version.name, number)  # with the tags that were just written
    return Registration(
        model=version.name,
        version=number,
        aliases=sorted(alias for alias, holder in aliases.items() if holder == number),
        run=str(store.client.get_run(run_id).info.run_name),
        run_address=run_address(store, run_id),
        champion=champion,
        comparable=other is not None and other.tags.get("evaluation_digest") == mine.tags.get("evaluation_digest"),
        scores=versions.scores_of(store, mine),
        champion_scores=versions.scores_of(store, other) if other else {},
    )


def _page(store: Store, facts: RunFacts, since: SinceChampion, run_id: str) -> str:
    choice, metadata = facts.choice, facts.choice.metadata
    gate = f"Not fit to be champion unasked: {facts.objection}." if facts.objection else "Passes the gate for a first champion."
    paragraphs = [
        f"T-LoRA of **{metadata.concept}** (trigger word `{metadata.trigger}`) for {metadata.base}, {choice.name}.",
        f"{facts.evaluation.reason}.",
        *([f"{facts.evaluation.second_opinion}."] if facts.evaluation.second_opinion else []),
        gate,
        f"Data: {say_since(since)}.",
        f"Licences: {facts.licences}.",
        f"{comparable_runs(store.experiment_id, facts.tags['evaluation_digest'])}.",
    ]
    return model_page(paragraphs, metrics_table(facts.evaluation.checkpoints, choice.name), facts.tags, run_id)


def _say_where(store: Store, version: "ModelVersion", aliases: list[str], grids: Path) -> None:
    uri, passing = public_uri(store.uri), passing_store()
    address = uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri} --host 127.0.0.1"
    print(f"grid:      {grids / 'grid.png'}")
    if page := version_address(store, version.name, str(version.version)):
        print(f"version:   {page}")
    print(f"model:     {version.name}, version {version.version}, alias {', '.join(aliases) or 'none'}")
    print(f"load it:   mlflow.pyfunc.load_model('models:/{version.name}/{version.version}')")
    print(f"MLflow UI: {address}", flush=True)
    if passing:
        print(f"register: warning: {passing}", flush=True)
