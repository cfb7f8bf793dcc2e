"""Keys on an elliptic curve, as PEM files: made by `tlora keys` alone, never by a stage, never inside a repository."""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tlora.errors import TloraError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

PASSWORD = "TLORA_PRIVATE_KEY_PASSWORD"  # the variable that holds the password of an encrypted private key
PRIVATE_FILE, PUBLIC_FILE = "tlora-private.pem", "tlora-public.pem"
_CURVES = ("secp256r1", "secp384r1", "secp521r1")  # what model-signing takes
_MAKE = "make one with: tlora keys FOLDER"


class TrustError(TloraError):
    """A signature is missing, another's, or not of these bytes; or a key cannot be used."""


def make_keys(folder: Path) -> tuple[Path, Path]:
    """Make a pair of keys on the curve P-256; the private one is encrypted where the environment holds a password.

    Args:
        folder: Where they are written; outside of any repository, so that nobody commits the private one.

    Returns:
        Private and public file.

    Raises:
        TrustError: If the folder lies in a Git repository, or holds keys already.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    place = folder.expanduser().resolve()  # `..` leads out of a repository
    if repository := next((parent for parent in (place, *place.parents) if (parent / ".git").exists()), None):
        raise TrustError(f"{place}: lies in the Git repository {repository}: choose a folder outside, for the private key")
    files = place / PRIVATE_FILE, place / PUBLIC_FILE
    if taken := next((file for file in files if file.exists()), None):
        raise TrustError(f"{taken}: exists, and what it signed would be lost: choose another folder")
    key, password = ec.generate_private_key(ec.SECP256R1()), os.environ.get(PASSWORD, "").encode()
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    place.mkdir(parents=True, exist_ok=True)
    text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    with os.fdopen(os.open(files[0], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text)
    files[1].write_bytes(pem_of(key.public_key()))
    return files


def load_private_key(file: Path) -> "EllipticCurvePrivateKey":
    """Return a private key; its password, if it has one, is in the environment.

    Raises:
        TrustError: If it cannot be read.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    password = os.environ.get(PASSWORD, "").encode() or None
    text = _read(file)
    try:
        key = serialization.load_pem_private_key(text, password)
    except TypeError as error:
        raise TrustError(f"{file}: is {'not ' if password else ''}encrypted: {'un' if password else ''}set {PASSWORD}") from error
    except ValueError as error:
        # one wrong password in 256 decrypts to something, which is no key: the error is another one then
        is_locked = password is not None and b"ENCRYPTED" in text
        wrong = f"{PASSWORD} is not its password" if is_locked else f"not a private key in PEM: {_MAKE}"
        raise TrustError(f"{file}: {wrong}") from error
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        raise TrustError(f"{file}: not a key on one of the curves {', '.join(_CURVES)}: {_MAKE}")
    return key


def load_public_key(file: Path) -> "EllipticCurvePublicKey":
    """Return a public key.

    Raises:
        TrustError: If it cannot be read.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    try:
        key = serialization.load_pem_public_key(_read(file))
    except ValueError as error:
        raise TrustError(f"{file}: not a public key in PEM: {_MAKE}") from error
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise TrustError(f"{file}: not a key on one of the curves {', '.join(_CURVES)}: {_MAKE}")
    return key


def identity_of(key: "EllipticCurvePublicKey") -> str:
    """Return `sha256:` and the hash of a public key's PEM, which `sha256sum` gives of its file, and bundles name it by."""
    return f"sha256:{hashlib.sha256(pem_of(key)).hexdigest()}"


def pem_of(key: "EllipticCurvePublicKey") -> bytes:
    """Return a public key as the text of its file."""
    from cryptography.hazmat.primitives import serialization

    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise TrustError(f"{file}: cannot be read ({error.strerror}): {_MAKE}, or correct the name") from error
