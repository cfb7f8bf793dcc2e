"""What comes back where a registry was lost: every version whose files DVC still holds, its number, the aliases, the history.

decisions.jsonl says what there was and from which digests; what was decided is done again in its order. A version whose files are
gone is named, and nothing takes its place: that a champion cannot be restored makes no other version champion.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from configparser import ConfigParser
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.dvc_command import run_dvc
from tasks.registry import promotion, versions, votes
from tasks.registry.decisions import Decision, MadeOf, read_decisions
from tasks.registry.names import CHALLENGER, CHAMPION, PREVIOUS
from tasks.running.state_folder import state_folder
from tasks.tracking.store import Store
from tlora.errors import SettingsError, TloraError
from tlora.flux.files import base_revision, is_same_base
from tlora.flux.spec import ModelSpec
from tlora.metadata.adapter import AdapterMetadata, find_weights, read_metadata
from tlora.runtime.settings import parse_settings, read_mapping
from tlora.runtime.yaml_text import render_yaml

if TYPE_CHECKING:
    from tasks.registry.versions import ModelVersion

RESTORING = "restoring"  # tag of a registered model that is not whole yet
EVALUATION = Path("reports", "evaluate", "evaluate.json")  # every number of its evaluation, as DVC holds it
NOWHERE = "mlflow-artifacts:/gone"  # where the files of a version are that only kept its number


@dataclass(frozen=True)
class RunFiles:
    """What the stages before left.

    Args:
        adapters: Folder of checkpoints.
        recommended: Folder of the one that the evaluation recommends.
        metrics: The evaluation, JSON.
        grids: Folder of its grids.
        pictures: Folder of its single pictures.
        reports: Folder of the stages' reports.
        manifest: Folder of both manifests.
        data: What `dvc add` wrote about the data folder.
        concept: concept.yaml; None where that is not known any more.
    """

    adapters: Path
    recommended: Path
    metrics: Path
    grids: Path
    pictures: Path
    reports: Path
    manifest: Path
    data: Path
    concept: Path | None

    def below(self, folder: Path) -> "RunFiles":
        """Return the same in another folder, as far as DVC holds it."""
        return RunFiles(
            adapters=folder / self.adapters,
            recommended=folder / self.recommended,
            metrics=folder / EVALUATION,
            grids=folder / self.grids,
            pictures=folder / self.pictures,
            reports=folder / self.reports,
            manifest=folder / self.manifest,
            data=folder / "data.dvc",
            concept=None,
        )

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where outputs of stages lie."""
        return self.adapters, self.recommended, self.grids, self.pictures, self.reports, self.manifest


@dataclass(frozen=True)
class Present:
    """The adapter that is being registered: name of its model, digest of its bytes, base model and files."""

    name: str
    adapter: str
    model: ModelSpec
    files: RunFiles


Objection = Callable[["ModelVersion"], str]
Register = Callable[[ModelSpec, RunFiles], "ModelVersion"]  # makes the version that files hold, without aliases


def restore_registry(store: Store, present: Present, register: Register, objection_to: Objection) -> list[str]:
    """Make the registered models that decisions tell of and the store has not, and return what was done, in words.

    Args:
        store: Where.
        present: What is going to be registered; its files are here.
        register: Makes a version.
        objection_to: Says why a version must not be champion again, as far as signatures go; empty if it may.
    """
    decisions, said = read_decisions(), []
    for name in sorted({decision.model for decision in decisions}):
        if _is_whole(store, name):
            continue
        said += _restore_model(store, [each for each in decisions if each.model == name], present, register, objection_to)
    return said


def made_of(model: ModelSpec, files: RunFiles, data: str) -> MadeOf:
    """Return from what a version can be registered again: dvc.lock says which digests the stages' outputs have."""
    lock = read_mapping(Path("dvc.lock"), "a mapping", "") if Path("dvc.lock").exists() else {}
    outs = [out for stage in lock.get("stages", {}).values() for out in stage.get("outs", ())]
    held = {out["path"]: out["md5"] for out in outs if any(Path(out["path"]).is_relative_to(folder) for folder in files.folders)}
    return MadeOf({"path": model.path, "revision": model.revision, "quantisation": model.quantisation}, data, held)


def _is_whole(store: Store, name: str) -> bool:
    found = store.client.search_registered_models(f"name = '{name}'", max_results=1)
    return bool(found) and RESTORING not in found[0].tags


def _restore_model(
    store: Store, decisions: Sequence[Decision], present: Present, register: Register, objection_to: Objection
) -> list[str]:
    name = decisions[0].model
    if not store.client.search_registered_models(f"name = '{name}'", max_results=1):
        store.client.create_registered_model(name)
    store.client.set_registered_model_tag(name, RESTORING, "true")
    latest = {each.adapter: each for each in decisions if each.event == "registered"}
    known: dict[str, ModelVersion] = {}
    gone: dict[str, str] = {}
    for decision in decisions:
        if decision.event == "registered" and decision.adapter not in {*known, *gone}:
            try:
                known[decision.adapter] = _restore_version(store, decision, latest[decision.adapter], present, register)
            except (TloraError, OSError) as error:
                gone[decision.adapter] = f"version {decision.version} of {name} cannot be restored: {error}"
        version = known.get(decision.adapter)
        if decision.event in ("promoted", "restored") and version and (untrusted := objection_to(version)):
            gone[f"{decision.adapter} as champion"] = f"version {version.version} of {name} is not champion again: {untrusted}"
            version = None
        _repeat(store, decision, version)
    store.client.delete_registered_model_tag(name, RESTORING)
    aliases = ", ".join(f"{alias} {number}" for alias, number in sorted(versions.aliases_of(store, name).items()))
    numbers = ", ".join(str(version.version) for version in known.values()) or "none"
    return [*gone.values(), f"restored {name} from what was decided: versions {numbers}; {aliases or 'no alias'}"]


def _restore_version(store: Store, first: Decision, latest: Decision, present: Present, register: Register) -> "ModelVersion":
    """Make a version anew, under its number where that is free.

    Raises:
        TloraError: If its files or its base are not here any more.
    """
    if version := versions.find_version(store, first.model, first.adapter):
        return version
    if (present.name, present.adapter) == (first.model, first.adapter):
        _skip_numbers(store, first)
        version = register(present.model, present.files)
    elif latest.made_of is None or not latest.made_of.outputs:
        raise SettingsError("nothing says which files it was made of")
    else:
        with _fetched(latest.made_of) as folder:
            files = present.files.below(folder)
            model = parse_settings(ModelSpec, latest.made_of.model, "its base", complete=False)
            _require_same_base(model, _metadata(files))
            _skip_numbers(store, first)
            version = register(model, files)
    if version.tags.get(versions.ADAPTER_DIGEST) != first.adapter:
        raise SettingsError(f"its files hold another adapter, which is version {version.version} now")
    versions.set_version_tags(store, version, {versions.BRANCH: latest.told.get("branch", "")})
    return version


def _repeat(store: Store, decision: Decision, version: "ModelVersion | None") -> None:
    """Move the aliases as they were moved, and write the trail."""
    if decision.event in ("voted", "round closed"):
        if version:
            votes.show_vote(store, decision, version)
        return
    name, aliases = decision.model, versions.aliases_of(store, decision.model)
    number, champion = str(version.version) if version else "", aliases.get(CHAMPION, "")
    if decision.event == "registered":
        _point(store, name, CHALLENGER, number)
        return
    if decision.event == "promoted":
        _point(store, name, PREVIOUS, champion if champion != number else aliases.get(PREVIOUS, ""))
        _point(store, name, CHAMPION, number)
    elif decision.event == "restored":
        _point(store, name, CHAMPION, number)
        _point(store, name, PREVIOUS, "")
    promotion.show_decision(store, decision, store.client.get_model_version(name, number) if number else None)


def _point(store: Store, name: str, alias: str, number: str) -> None:
    """Let an alias point at a version, or at none."""
    if number:
        store.client.set_registered_model_alias(name, alias, number)
    elif alias in versions.aliases_of(store, name):
        store.client.delete_registered_model_alias(name, alias)


def _skip_numbers(store: Store, decision: Decision) -> None:
    """Use up the numbers of versions that are gone, so that the next one is the version's own."""
    newest = max((int(version.version) for version in versions.versions_of(store, decision.model)), default=0)
    for _ in range(newest + 1, int(decision.version)):
        made = store.client.create_model_version(decision.model, NOWHERE)
        store.client.delete_model_version(decision.model, str(made.version))


def _require_same_base(model: ModelSpec, metadata: AdapterMetadata) -> None:
    if model.is_folder and not Path(model.path).is_dir():
        raise SettingsError(f"its base {model.path} is not here")
    if not is_same_base(metadata.base, metadata.base_revision, model.path, base_revision(model)):
        raise SettingsError(f"its base {model.path} is another one now")


def _metadata(files: RunFiles) -> AdapterMetadata:
    return read_metadata(find_weights(files.adapters / "final"))


@contextmanager
def _fetched(made: MadeOf) -> Iterator[Path]:
    """Bring outputs out of DVC's cache, or else its default remote, into a folder of their own, for a while.

    Raises:
        SettingsError: Naming what neither holds.
    """
    cache = run_dvc("cache", "dir")
    config = _config(Path(".dvc"), cache)
    with tempfile.TemporaryDirectory(dir=state_folder("restoring")) as name:
        folder = Path(name)
        with chdir(folder):
            run_dvc("init", "--no-scm", "--quiet")
            with Path(".dvc/config").open("w", encoding="utf-8") as file:
                config.write(file)
            outs = [{"md5": digest, "hash": "md5", "path": path} for path, digest in made.outputs.items()]
            Path("outputs.dvc").write_text(render_yaml({"outs": outs}), encoding="utf-8")
            _check_out(made.outputs, can_pull=config.has_option("core", "remote"))
        written = {"outs": [{"md5": made.data, "hash": "md5", "path": "data"}]}
        (folder / "data.dvc").write_text(render_yaml(written), encoding="utf-8")
        if not (folder / EVALUATION).exists():
            raise SettingsError(f"its evaluation did not leave {EVALUATION} yet")
        yield folder


def _check_out(outputs: Mapping[str, str], *, can_pull: bool) -> None:
    try:
        run_dvc("checkout", "--quiet", "outputs.dvc")
    except SettingsError:
        if can_pull:
            try:
                run_dvc("pull", "--quiet", "outputs.dvc")
                return
            except SettingsError:
                pass
        lost = [f"{path} ({digest})" for path, digest in outputs.items() if not Path(path).exists()]
        where = "neither DVC's cache nor its default remote holds" if can_pull else "DVC's cache does not hold"
        raise SettingsError(f"{where} {', '.join(lost) or 'all of its files'}") from None


def _config(folder: Path, cache: str) -> ConfigParser:
    """Return DVC's configuration of this tree, fit for another folder: paths are relative to where it lies."""
    config = ConfigParser(interpolation=None)
    config.read([folder / "config", folder / "config.local"], encoding="utf-8")
    for section in config.sections():
        url = config.get(section, "url", fallback="")
        if url and "://" not in url and not url.startswith(("/", "~")):
            config.set(section, "url", str((folder / url).absolute()))
    for section, key, value in (("cache", "dir", cache), ("core", "no_scm", "true")):
        if not config.has_section(section):
            config.add_section(section)
        config.set(section, key, value)
    return config
