"""Signatures of adapters and of registered models, made by OpenSSF's model-signing: Sigstore bundles beside what was signed.

A signature says that who holds the private key made these bytes, whatever their folder is called. An adapter's is of its one
file, a model's of every file of its folder. The library (extra `signing`) is loaded only where something is signed or verified.
"""

import json
import os
import re
from pathlib import Path
from types import ModuleType

from tlora.metadata.adapter import WEIGHTS_FILE, find_weights
from tlora.trust.keys import PASSWORD, TrustError, identity_of, load_private_key, load_public_key

ADAPTER_SIGNATURE, MODEL_SIGNATURE = "adapter.sig", "model.sig"  # in a registered model's folder; the first also in an adapter's
_NOT_SIGNED = (ADAPTER_SIGNATURE, MODEL_SIGNATURE, "registered_model_meta")  # MLflow writes the last one when it loads a version


def sign(path: Path, signature: Path, private_key: Path) -> str:
    """Sign a file, or a folder with all that is in it.

    Args:
        path: What is signed.
        signature: File to write.
        private_key: PEM file; its password, if it has one, is in the environment.

    Returns:
        The identity that signed.

    Raises:
        TrustError: If the key cannot be used, or something cannot be signed.
    """
    key = load_private_key(private_key)
    hashing, signing, _ = _model_signing()
    password = os.environ.get(PASSWORD, "").encode() or None
    hashed = hashing.Config().set_ignored_paths(paths=_NOT_SIGNED)
    try:
        # the annotation says str, and what reads the key takes bytes alone
        signing.Config().use_elliptic_key_signer(private_key=private_key, password=password).set_hashing_config(hashed).sign(
            path, signature
        )
    except ValueError as error:  # a link, say
        raise TrustError(f"{path}: cannot be signed: {error}") from error
    return identity_of(key.public_key())


def verify(path: Path, signature: Path, public_key: Path) -> str:
    """Refuse what is not, byte for byte, what the holder of a key signed.

    Args:
        path: File or folder.
        signature: What `sign` wrote.
        public_key: PEM file.

    Returns:
        The identity that signed.

    Raises:
        TrustError: In one line, if it is unsigned, signed by another, or altered since, or if the key cannot be used.
    """
    identity = identity_of(load_public_key(public_key))
    _, _, verifying = _model_signing()
    from cryptography.exceptions import InvalidSignature

    if not signature.is_file():
        raise TrustError(f"{path}: is not signed (there is no {signature}); {public_key} is asked for")
    signer = signer_of(signature)
    if signer != identity:
        raise TrustError(f"{path}: is signed with another key ({signer}) than {public_key} ({identity})")
    try:
        verifying.Config().use_elliptic_key_verifier(public_key=public_key).verify(path, signature)
    except InvalidSignature as error:
        raise TrustError(f"{signature}: is forged or damaged: {public_key} did not sign it") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise TrustError(f"{path}: {_what_differs(str(error), signature)}") from error
    return identity


def verify_adapter(adapter: Path, public_key: Path) -> str:
    """Refuse an adapter, a folder or a file, that is not signed with a key; see `verify`."""
    return verify(find_weights(adapter), signature_of(adapter), public_key)


def verify_model(folder: Path, public_key: Path) -> str:
    """Refuse the folder of a registered model of which anything is not signed with a key; see `verify`."""
    return verify(folder, folder / MODEL_SIGNATURE, public_key)


def signature_of(adapter: Path) -> Path:
    """Return where the signature of an adapter lies: in its folder, or beside it where the folder must stay as it is."""
    folder = adapter if adapter.is_dir() else adapter.parent
    inside = folder / ADAPTER_SIGNATURE
    return inside if inside.is_file() else beside(folder)


def beside(folder: Path) -> Path:
    """Return the name of a signature beside a folder.

    Example:
        >>> str(beside(Path("artifacts/recommended")))
        'artifacts/recommended.sig'
    """
    named = folder if folder.name else folder.absolute()
    return named.with_name(f"{named.name}.sig")


def signer_of(signature: Path) -> str:
    """Return the identity that a signature claims to be of, unverified.

    Raises:
        TrustError: If it is no bundle.
    """
    try:
        bundle = json.loads(signature.read_text(encoding="utf-8"))
        return f"sha256:{bundle['verificationMaterial']['publicKey']['hint']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrustError(f"{signature}: is damaged, or no signature with a key") from error


def adapter_in(model: Path) -> Path:
    """Return the adapter's file in the folder of a registered model.

    Raises:
        TrustError: If there is not exactly one.
    """
    found = sorted((model / "artifacts").rglob(WEIGHTS_FILE))
    if len(found) != 1:
        raise TrustError(f"{model}: holds {len(found)} files called {WEIGHTS_FILE}, not one")
    return found[0]


def _what_differs(said: str, signature: Path) -> str:
    """Put the library's words for a person: which files are not as they were signed."""
    if "symlink" in said:
        return f"cannot be verified: {said}"
    if not said.startswith("Signature mismatch"):
        return f"its signature {signature} is damaged"
    changed = [name for name in re.findall(r"Hash mismatch for \\?'(.*?)\\?':", said) if name != "."]
    added = [
        name for names in re.findall(r"Extra files found in model \\?'.*?\\?': (.*?)[\"']", said) for name in names.split(", ")
    ]
    lost = [name for names in re.findall(r"Missing files in model \\?'.*?\\?': (.*?)[\"']", said) for name in names.split(", ")]
    kinds = [f"{kind} {_first(names)}" for kind, names in (("changed", changed), ("added", added), ("missing", lost)) if names]
    return "was altered since it was signed" + (f" ({'; '.join(kinds)})" if kinds else "")


def _first(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _model_signing() -> tuple[ModuleType, ModuleType, ModuleType]:
    """Return the library's hashing, signing and verifying.

    Raises:
        TrustError: If it is not installed.
    """
    try:
        from model_signing import hashing, signing, verifying
    except ImportError as error:
        raise TrustError("signatures need model-signing: pip install -e '.[signing]'") from error
    return hashing, signing, verifying
