"""Whether a registered version can be loaded and is the bytes it should be; and its repair, from the files that it was made of.

A store says what it was told. Its files may have been moved, deleted or damaged since.
"""

import filecmp
import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.registry.versions import ServedModel, folders_of, set_version_tags, write_model
from tasks.tracking.store import Store, TrackingError

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CODE_DIGEST = "served_code_digest"  # tag: of the code that the version carries; a later one of ours is no damage
_CODE = "code"


def repair_version(store: Store, version: "ModelVersion", model: ServedModel, known: str = "") -> str:
    """Write a version's files again, unless they are what they should be.

    Args:
        store: Where.
        version: Which.
        model: What it should hold.
        known: What is wrong with its files, where that is known already; then nothing else is left among them.

    Returns:
        What was wrong, in a few words; empty if nothing was.

    Raises:
        TrackingError: If something still is.
    """
    if not (damage := find_damage(store, version, model) or known):
        return ""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        write_model(folder, model, version)
        set_version_tags(store, version, {CODE_DIGEST: _code_digest(folder)})
        held = get_artifact_repository(place_of(store, version))
        held.log_artifacts(str(folder))
        if known:  # what is signed next must be these files and no others
            for name in _others(store, version, folder):
                held.delete_artifacts(name)
    repaired = store.client.get_model_version(version.name, version.version)
    if remaining := find_damage(store, repaired, model):
        raise TrackingError(
            f"{version.name}, version {version.version}: {remaining}, also after its files were written again:"
            " delete the version in MLflow, then run register again"
        )
    return damage


def note_code(store: Store, version: "ModelVersion") -> None:
    """Remember the code that a version carries, so that damage to it is seen."""
    with version_files(store, version) as folder:
        if folder:
            set_version_tags(store, version, {CODE_DIGEST: _code_digest(folder)})


def find_damage(store: Store, version: "ModelVersion", model: ServedModel) -> str:
    """Return what of a version is not as it was registered, in a few words; empty if it can be loaded."""
    with version_files(store, version) as folder:
        return f"its files are not at {place_of(store, version)}" if folder is None else _damage_in(folder, version, model)


def _damage_in(folder: Path, version: "ModelVersion", model: ServedModel) -> str:
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model
    from yaml import YAMLError

    try:
        flavor: dict[str, Any] = Model.load(str(folder)).flavors["python_function"]
        served, held = flavor["config"]["serve"], flavor["artifacts"]
        script = folder / Path(flavor["model_code_path"]).name
    except (OSError, MlflowException, YAMLError, KeyError, TypeError) as error:
        return f"its MLmodel cannot be read ({type(error).__name__})"
    for key, own in folders_of(model).items():
        if key not in held or (differing := _differing(own, folder / held[key]["path"])):
            return f"its copy of {own / differing if key in held else own} is missing or damaged"
    if not script.is_file() or version.tags.get(CODE_DIGEST, _code_digest(folder)) != _code_digest(folder):
        return "its code is missing or damaged"
    base = str(Path(model.base.path).absolute())
    if model.base.is_folder and "base" not in held and served["base"] != base:
        return f"it looks for its base in {served['base']}"
    return ""


def _others(store: Store, version: "ModelVersion", own: Path) -> list[str]:
    """Return the files of a version that a folder has not."""
    with version_files(store, version) as folder:
        found = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()] if folder else []
    return sorted(str(name) for name in found if not (own / name).is_file())


def _differing(own: Path, held: Path) -> str:
    """Return the first file of a folder that a copy lacks or holds otherwise; empty for none."""
    names = [str(file.relative_to(own)) for file in sorted(own.rglob("*")) if file.is_file()]
    return next((name for name in names if not _is_same(own / name, held / name)), "")


def _is_same(one: Path, other: Path) -> bool:
    return other.is_file() and filecmp.cmp(one, other, shallow=False)


def _code_digest(folder: Path) -> str:
    files = [*sorted(folder.glob("*.py")), *sorted((folder / _CODE).rglob("*.py"))]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(folder)}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest() if files else ""


def place_of(store: Store, version: "ModelVersion") -> str:
    """Return where the files of a version are."""
    return store.client.get_model_version_download_uri(version.name, version.version)


@contextmanager
def version_files(store: Store, version: "ModelVersion") -> Iterator[Path | None]:
    """Yield the folder of a version's files: itself where it is here, or else a copy; None if they are not to be had."""
    import mlflow
    from mlflow.exceptions import MlflowException

    place = place_of(store, version)
    with tempfile.TemporaryDirectory() as temporary:
        into = None if place.startswith("file:") else temporary
        try:
            yield_path = Path(mlflow.artifacts.download_artifacts(artifact_uri=place, dst_path=into))
        except (MlflowException, OSError):
            yield_path = None
        yield yield_path
