"""Real signatures with real keys: what is unsigned, altered or another's is refused in one line that says which."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tlora.trust.signed_folder import Signed
from tlora.cli import main
from tlora.trust.keys import PASSWORD, TrustError, identity_of, load_public_key, make_keys
from tlora.trust.signing import beside, sign, verify, verify_adapter


def test_what_is_signed_verifies_under_another_name_too(signed: Signed) -> None:
    identity = f"sha256:{hashlib.sha256(signed.public.read_bytes()).hexdigest()}"  # what sha256sum says of the file
    assert verify(signed.folder, signed.folder / "model.sig", signed.public) == identity
    moved = signed.folder.rename(signed.folder.with_name("moved"))
    assert verify(moved, moved / "model.sig", signed.public) == identity
    (moved / "registered_model_meta").write_text("written by MLflow")
    assert verify(moved, moved / "model.sig", signed.public) == identity


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (lambda folder: (folder / "a/weights").write_text("x"), r"altered since it was signed \(changed a/weights\)"),
        (lambda folder: (folder / "code.py").write_text("x"), r"altered since it was signed \(added code\.py\)"),
        (lambda folder: (folder / "b").unlink(), r"altered since it was signed \(missing b\)"),
        (lambda folder: (folder / "model.sig").unlink(), r"is not signed \(there is no .*/model\.sig\)"),
        (lambda folder: (folder / "model.sig").write_text("{}"), r"model\.sig: is damaged, or no signature with a key"),
        (lambda folder: (folder / "c").symlink_to(folder / "b"), r"cannot be verified: .* it is a symlink"),
    ],
    ids=["changed", "added", "missing", "unsigned", "no bundle", "a link"],
)
def test_a_folder_that_was_altered_is_refused_by_the_name_of_the_file(signed: Signed, alter: object, words: str) -> None:
    alter(signed.folder)
    with pytest.raises(TrustError, match=words) as caught:
        verify(signed.folder, signed.folder / "model.sig", signed.public)
    assert "\n" not in str(caught.value)


def test_anothers_signature_is_refused_also_where_it_claims_to_be_ours(signed: Signed, other: Signed) -> None:
    signature = signed.folder / "model.sig"
    claimed = json.loads(signature.read_text())["verificationMaterial"]
    sign(signed.folder, signature, other.private)
    with pytest.raises(TrustError, match=f"signed with another key .{identity_of(load_public_key(other.public))}"):
        verify(signed.folder, signature, signed.public)
    signature.write_text(json.dumps(json.loads(signature.read_text()) | {"verificationMaterial": claimed}))
    with pytest.raises(TrustError, match=r"model\.sig: is forged or damaged"):
        verify(signed.folder, signature, signed.public)


def test_an_adapters_signature_lies_in_its_folder_or_beside_it(adapter: Path, signed: Signed) -> None:
    with pytest.raises(TrustError, match=r"adapter/tlora_weights\.safetensors: is not signed \(there is no .*adapter\.sig\)"):
        verify_adapter(adapter, signed.public)
    sign(adapter / "tlora_weights.safetensors", beside(adapter), signed.private)
    verify_adapter(adapter, signed.public)
    verify_adapter(adapter / "tlora_weights.safetensors", signed.public)
    published = shutil.copytree(adapter, adapter.with_name("published"))
    shutil.move(beside(adapter), published / "adapter.sig")
    (published / "README.md").write_text("what else lies there is not signed")
    verify_adapter(published, signed.public)


def test_the_library_s_own_command_verifies_it(signed: Signed) -> None:
    command = [
        sys.executable,
        "-m",
        "model_signing",
        "verify",
        "key",
        str(signed.folder),
        "--signature",
        str(signed.folder / "model.sig"),
    ]
    said = subprocess.run([*command, "--public_key", str(signed.public)], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr


def test_keys_are_made_outside_of_repositories_and_never_over_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["keys", str(tmp_path / "keys")])
    private, public = tmp_path / "keys/tlora-private.pem", tmp_path / "keys/tlora-public.pem"
    assert private.stat().st_mode & 0o777 == 0o600
    assert f"identity: sha256:{hashlib.sha256(public.read_bytes()).hexdigest()}" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="exists, and what it signed would be lost"):
        main(["keys", str(tmp_path / "keys")])
    (tmp_path / "tree/.git").mkdir(parents=True)
    with pytest.raises(SystemExit, match="lies in the Git repository"):
        main(["keys", str(tmp_path / "tree/keys")])
    assert not (tmp_path / "tree/keys").exists()
    main(["keys", str(tmp_path / "tree/../beside")])
    assert (tmp_path / "beside/tlora-private.pem").is_file()


def test_an_encrypted_key_signs_with_its_password_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, signature = tmp_path / "file", tmp_path / "file.sig"
    file.write_text("brick")
    monkeypatch.setenv(PASSWORD, "mortar")
    private, public = make_keys(tmp_path / "keys")
    assert b"ENCRYPTED" in private.read_bytes()
    sign(file, signature, private)
    verify(file, signature, public)
    monkeypatch.setenv(PASSWORD, "cement")
    with pytest.raises(TrustError, match=f"{PASSWORD} is not its password"):
        sign(file, signature, private)
    monkeypatch.delenv(PASSWORD)
    with pytest.raises(TrustError, match=f"is encrypted: set {PASSWORD}"):
        sign(file, signature, private)


@pytest.mark.parametrize("text", ["", "-----BEGIN PUBLIC KEY-----\nMFk=\n-----END PUBLIC KEY-----\n"])
def test_what_is_no_key_is_refused(signed: Signed, tmp_path: Path, text: str) -> None:
    (tmp_path / "key.pem").write_text(text)
    with pytest.raises(TrustError, match=r"key\.pem: not a public key in PEM: make one with: tlora keys"):
        verify(signed.folder, signed.folder / "model.sig", tmp_path / "key.pem")
    with pytest.raises(TrustError, match=r"key\.pem: not a private key in PEM"):
        sign(signed.folder, tmp_path / "signature", tmp_path / "key.pem")
    with pytest.raises(TrustError, match=r"none\.pem: cannot be read \(No such file or directory\)"):
        verify(signed.folder, signed.folder / "model.sig", tmp_path / "none.pem")
