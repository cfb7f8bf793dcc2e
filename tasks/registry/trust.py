"""Signatures of registered versions: `register` signs, whoever moves an alias or loads a version verifies.

Signed are the files of a version, not its tags and metrics: who may write into the registry can change those.
"""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.registry.held_files import place_of, version_files
from tasks.registry.versions import ADAPTER_DIGEST, set_version_tags
from tasks.tracking.store import Store
from tlora.metadata.adapter import adapter_digest
from tlora.trust.keys import TrustError, identity_of, load_private_key, load_public_key, pem_of
from tlora.trust.settings import TrustSettings
from tlora.trust.signing import (
    ADAPTER_SIGNATURE,
    MODEL_SIGNATURE,
    adapter_in,
    beside,
    sign,
    verify_model,
)

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

SIGNED_BY = "signed_by"  # tag: the identity
_NO_BYTECODE = (
    "__pycache__"  # a file of this name keeps Python from leaving compiled code there, which nobody signed and it would run
)
_WHY = "A file in the place of Python's folder of this name: what is loaded from here is the source, which is signed.\n"


def sign_version(store: Store, version: "ModelVersion", private_key: Path) -> str:
    """Sign the files that a version has now, its adapter apart, and put both signatures among them; return the identity.

    Raises:
        TrustError: If the key cannot be used, or the files are not to be had.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with version_files(store, version) as folder, tempfile.TemporaryDirectory() as temporary:
        if folder is None:
            raise TrustError(f"{version.name}, version {version.version}: its files are not at {place_of(store, version)}")
        made = Path(temporary)
        shutil.rmtree(folder / _NO_BYTECODE, ignore_errors=True)
        for place in (folder, made):
            (place / _NO_BYTECODE).write_text(_WHY, encoding="utf-8")
        sign(adapter_in(folder), made / ADAPTER_SIGNATURE, private_key)
        identity = sign(folder, made / MODEL_SIGNATURE, private_key)
        get_artifact_repository(place_of(store, version)).log_artifacts(str(made))
    set_version_tags(store, version, {SIGNED_BY: identity})
    return identity


def objection_to_signature(store: Store, version: "ModelVersion", settings: TrustSettings) -> str:
    """Return why a version must not be used, in a line; empty if it is signed as it should be, or nothing is asked."""
    key = settings.verifies_with
    if key is None:
        return ""
    named = f"version {version.version}"
    with version_files(store, version) as folder:
        if folder is None:
            return f"{named}: its files are not at {place_of(store, version)}, so its signature cannot be verified"
        try:
            verify_model(folder, key)
            if adapter_digest(adapter_in(folder)) != version.tags.get(ADAPTER_DIGEST):
                return f"{named} holds another adapter than its tag {ADAPTER_DIGEST} names, signed as it is"
        except TrustError as error:
            return str(error).replace(str(folder), named)
    return ""


def find_unsigned(store: Store, version: "ModelVersion", private_key: Path) -> str:
    """Return why the files of a version are not signed by the key that `register` signs with; empty if they are."""
    with tempfile.TemporaryDirectory() as temporary:
        public = Path(temporary) / "public.pem"
        key = load_private_key(private_key).public_key()
        public.write_bytes(pem_of(key))
        if not objection_to_signature(store, version, TrustSettings(str(public))):
            return ""
    return (
        f"not signed by {identity_of(key)}"
        if version.tags.get(SIGNED_BY) != identity_of(key)
        else "altered since they were signed"
    )


def leave_signature(store: Store, version: "ModelVersion", adapter: Path) -> Path | None:
    """Put the signature of a version's adapter beside a folder that holds the same adapter; return the file, if there is one."""
    file = beside(adapter)
    file.unlink(missing_ok=True)  # of another adapter, perhaps
    if SIGNED_BY not in version.tags:
        return None
    with version_files(store, version) as folder:
        if folder is None or not (folder / ADAPTER_SIGNATURE).is_file():
            return None
        shutil.copyfile(folder / ADAPTER_SIGNATURE, file)
    return file


def public_key_text(settings: TrustSettings) -> str:
    """Return the public key that is asked for, as text; empty if none is.

    Raises:
        TrustError: If it cannot be read.
    """
    return pem_of(load_public_key(settings.verifies_with)).decode() if settings.verifies_with else ""
