"""Is there anything to train again for? The present data, base and settings against what the champion was made from.

The champion's tags say what it was made from, whatever machine this is; DVC says what has changed since the last run here.
What was tried already and did not become champion is no reason a second time.
"""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.plan import changes, is_code, read_status, settings_in
from flows.worktree import is_unmerged
from tasks.dvc_command import is_import, local_changes, read_dvc_file, run_dvc
from tasks.registry.names import CHALLENGER, CHAMPION, PREVIOUS
from tasks.registry.promotion import stood_down
from tasks.registry.settings import RetrainSettings as RetrainSettings
from tasks.registry.versions import BRANCH, find_alias, versions_of
from tasks.running.cli import read_params, read_section
from tasks.running.git import git
from tasks.running.state_folder import replaced_folder
from tasks.tracking.store import Store
from tlora.errors import SettingsError
from tlora.flux.files import base_revision, is_same_base
from tlora.flux.spec import ModelSpec
from tlora.runtime.atomic_file import write_text
from tlora.runtime.settings import parse_settings
from tlora.runtime.yaml_text import parse_yaml

if TYPE_CHECKING:
    from tasks.registry.versions import ModelVersion

PARAMS, DATA = Path("params.yaml"), Path("data.dvc")
SECTIONS = ("model", "train")  # those that a run's parameters hold
MOST_NAMED = 5


@dataclass(frozen=True)
class RetrainReasons:
    """Why to train again, each in a few words; where there is no reason, why not in `quiet`.

    Where the champion stands on a branch with settings that this tree has not, `held` says why a person promotes, not the gate.
    """

    reasons: tuple[str, ...]
    quiet: str = ""
    held: str = ""


def read_settings() -> RetrainSettings:
    """Return section `retrain` of params.yaml.

    Raises:
        SettingsError: If it is not what it should be.
    """
    return parse_settings(RetrainSettings, read_section(PARAMS, "retrain"), f"{PARAMS}: retrain")


def bring_in(settings: RetrainSettings) -> list[str]:
    """Bring in what is new elsewhere, as far as the settings say; return what was, in words.

    Nothing in the data folder that DVC does not hold is written over: then nothing is brought in, and it is said.

    Raises:
        SettingsError: In the words of git or DVC; such as where the two histories have parted.
    """
    brought = _fast_forward(settings) if settings.git_remote else []
    return brought + (_update_import() if settings.update_import and is_import(DATA) else [])


def _fast_forward(settings: RetrainSettings) -> list[str]:
    old = git("rev-parse", "HEAD")
    git("fetch", "--quiet", settings.git_remote, settings.git_branch)
    if git("rev-list", "--count", "HEAD..FETCH_HEAD") == "0":
        return []
    moved = bool(git("diff", "--name-only", "HEAD...FETCH_HEAD", "--", str(DATA)))
    if moved and DATA.exists():
        _require_saved("a new data.dvc comes from git")
    git("merge", "--quiet", "--ff-only", "FETCH_HEAD")
    done = not moved
    try:
        if moved:
            _check_out()
            done = True
    finally:
        if not done:  # the old data beside the new data.dvc would be taken for a change of somebody's here
            git("reset", "--quiet", "--keep", old)
            run_dvc("checkout", "--quiet", str(DATA))
    return [f"{settings.git_remote}/{settings.git_branch} is at {git('rev-parse', 'HEAD')[:8]}, was at {old[:8]}"]


def _update_import() -> list[str]:
    """Update an import; where its source cannot be reached, the data that is here is used on."""
    _require_saved("data.dvc is an import, and 'dvc update' would remove them")
    before = DATA.read_text(encoding="utf-8")
    if before.strip() != _committed(DATA):
        kept = replaced_folder()
        write_text(kept / DATA.name, before)  # no commit names what it names; `make prune` keeps it, `make restore` finds it
    try:
        run_dvc("update", "--quiet", str(DATA))
    except SettingsError as error:
        write_text(DATA, before)
        run_dvc("checkout", "--quiet", str(DATA))
        return [f"{DATA} is as it was, since where it comes from cannot be read: {error}"]
    return [f"{DATA} was imported anew"] if DATA.read_text(encoding="utf-8") != before else []


def _require_saved(why: str) -> None:
    """Refuse where the data folder holds what DVC does not.

    Raises:
        SettingsError: Naming it.
    """
    folder, _ = read_dvc_file(DATA)
    if unsaved := local_changes(folder, ("added", "modified", "renamed", "unknown")):
        named = ", ".join(_shortened(unsaved))
        raise SettingsError(f"{folder}/: DVC does not hold {named}, and {why}: 'dvc add {folder}', or move them out, then again")


def _committed(file: Path) -> str:
    """Return a file as the last commit has it; empty where it has none."""
    return git("show", f"HEAD:./{file}") if git("ls-tree", "HEAD", "--", str(file)) else ""


def find_reasons(store: Store, model: str, settings: RetrainSettings) -> RetrainReasons:
    """Return why the model should be trained again, or why not.

    Args:
        store: Where the champion is.
        model: Name of the registered model.
        settings: Section `retrain`.

    Raises:
        SettingsError: If params.yaml or DVC's files cannot be read.
    """
    status = read_status()
    since_run = [change for entries in status.values() for change in changes(entries)]
    data = ["the pictures have changed since data.dvc was written"] if _has_changed("data", since_run) else []
    code = [change for change in since_run if is_code(change.split(" ")[0])]
    here = [*data, *settings_in(status), *(code if settings.on_code_change else [])]
    champion, previous = find_alias(store, model, CHAMPION), find_alias(store, model, PREVIOUS)
    if champion is None and find_alias(store, model, CHALLENGER) is None:
        return RetrainReasons(("there is no version yet",))
    for version in versions_of(store, model) if not here else ():
        if (decided := _decided(version, champion, previous)) and not _differences(store, version):
            return RetrainReasons((), f"version {version.version} was made from the same, and {decided}")
    if champion is None:
        return RetrainReasons((*here, "there is no champion yet"))
    own = settings_of_branch(champion.tags.get(BRANCH, ""))
    reasons = [*here, *_differences(store, champion, own)]
    if reasons:
        return RetrainReasons(tuple(_shortened(reasons)), held=_held(champion, own))
    only_code = f"; only code has changed ({', '.join(_shortened(code))}), and retrain.on_code_change is off" if code else ""
    return RetrainReasons((), f"data, base and settings are those of the champion, version {champion.version}{only_code}")


def settings_of_branch(branch: str) -> dict[str, Any]:
    """Return the settings, by dotted name, that a run's branch has otherwise than this tree has had ever since it was made."""
    if not is_unmerged(branch):
        return {}
    fork = git("merge-base", "HEAD", branch)
    before, there = (parse_yaml(git("show", f"{revision}:./{PARAMS}")) for revision in (fork, branch))
    now = read_params(PARAMS)
    names = [(section, name) for section in SECTIONS for name in there.get(section, {})]
    values = [(f"{s}.{n}", there[s][n], before.get(s, {}).get(n), now.get(s, {}).get(n)) for s, n in names]
    return {name: its for name, its, old, mine in values if its != old and mine == old}


def _held(champion: "ModelVersion", own: Mapping[str, Any]) -> str:
    if not own:
        return ""
    settings, branch = ", ".join(f"{name}={value}" for name, value in own.items()), champion.tags[BRANCH]
    return (
        f"not promoted: the champion, version {champion.version}, stands on {branch} with {settings}: keep them with"
        f" 'git merge {branch} && dvc checkout', or give them up with 'make promote'"
    )


def _differences(store: Store, version: "ModelVersion", besides: Container[str] = ()) -> list[str]:
    """Return in what the present data, base and settings, besides some, differ from what a version was made from."""
    found = []
    _, digest = read_dvc_file(DATA)
    if digest != version.tags.get("data_dvc"):
        found.append(f"data.dvc is {digest[:8]}, version {version.version}'s was {version.tags.get('data_dvc', 'unknown')[:8]}")
    model = parse_settings(ModelSpec, read_section(PARAMS, "model"), f"{PARAMS}: model")
    revision, before = base_revision(model), version.tags.get("base_revision", "")
    if "model.path" not in besides and not is_same_base(model.path, revision, version.tags.get("base", ""), before):
        found.append(f"the base is at {revision[:8]}, version {version.version}'s was {before[:8]}")
    run = store.client.get_run(str(version.run_id))
    return found + [said for name, said in _changed_settings(read_params(PARAMS), run.data.params) if name not in besides]


def _changed_settings(params: Mapping[str, Any], before: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for section in SECTIONS:
        for name, value in params.get(section, {}).items():
            old = before.get(f"{section}.{name}")
            if old is not None and not _is_same(str(value), old):
                yield f"{section}.{name}", f"{section}.{name} is {value}, was {old}"


def _is_same(value: str, other: str) -> bool:
    """Whether two texts mean one value: params.yaml says 16 where a run says 16.0."""
    try:
        return value == other or float(value) == float(other)
    except ValueError:
        return False


def _has_changed(folder: str, changed: list[str]) -> bool:
    return any(change in (f"{folder} modified", f"{folder} deleted") for change in changed)


def _decided(version: "ModelVersion", champion: "ModelVersion | None", previous: "ModelVersion | None") -> str:
    """Return what became of a version that is not champion; empty while nothing has."""
    if champion and version.version == champion.version:
        return ""
    if settled := stood_down(version, str(champion.version) if champion else "", has_champion=False):
        return settled
    if previous and version.version == previous.version:
        return "was champion before"
    return "its evaluation recommends no checkpoint" if version.tags.get("recommended") != "true" else ""


def _check_out() -> None:
    """Bring the folder to what data.dvc says; from the default remote where the cache lacks it."""
    try:
        run_dvc("checkout", "--quiet", str(DATA))
    except SettingsError:
        run_dvc("pull", "--quiet", str(DATA))


def _shortened(reasons: list[str]) -> list[str]:
    distinct = list(dict.fromkeys(reasons))
    return distinct[:MOST_NAMED] + ([f"{len(distinct) - MOST_NAMED} more"] if len(distinct) > MOST_NAMED else [])
