"""Versions that are signed: who is refused, and where; in a store of files, with real keys."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
import yaml
from mlflow.exceptions import MlflowException

from tasks.registry.promotion import judge, promote_version, roll_back
from tasks.registry.trust import SIGNED_BY, objection_to_signature
from tasks.registry.verdict import PromoteSettings, PromotionError
from tasks.registry.versions import aliases_of
from tasks.restore_data import main as restore_data
from tasks.tracking.store import open_store
from tests.tasks.finished_run import BASE, NAME, FinishedRun
from tlora.cli import main
from tlora.trust.keys import identity_of, load_public_key, make_keys
from tlora.trust.settings import TrustSettings

SETTINGS = PromoteSettings()


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> TrustSettings:
    """Keys that sign and verify."""
    private, public = make_keys(tmp_path_factory.mktemp("keys"))
    return TrustSettings(str(public), str(private))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> TrustSettings:
    """Somebody else's."""
    private, public = make_keys(tmp_path_factory.mktemp("keys"))
    return TrustSettings(str(public), str(private))


def folder_of(root: Path, number: str = "1") -> Path:
    """Return the folder of a version's files."""
    uri = open_store().client.get_model_version_download_uri(NAME, number)
    return Path(uri.removeprefix("file://"))


def tags_of(number: str) -> dict[str, str]:
    return dict(open_store().client.get_model_version(NAME, number).tags)


ALTERED: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: (folder / "model.sig").unlink(), "version 1: is not signed (there is no version 1/model.sig)"),
    (
        lambda folder: (folder / "code/tlora/sampling.py").write_text("import os"),
        "version 1: was altered since it was signed (changed code/tlora/sampling.py)",
    ),
    (
        lambda folder: (folder / "code/numpy.py").write_text("import os"),
        "version 1: was altered since it was signed (added code/numpy.py)",
    ),
    (shutil.rmtree, "version 1: its files are not at "),
]


def test_a_champion_by_register_is_signed_and_what_was_done_to_it_is_said(
    finished_run: FinishedRun, trust: TrustSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    finished_run.register(trust)
    store = open_store()
    version = store.client.get_model_version_by_alias(NAME, "champion")
    assert version.tags[SIGNED_BY] == identity_of(load_public_key(Path(trust.public_key)))
    assert objection_to_signature(store, version, trust) == ""
    folder = folder_of(finished_run.root)
    kept = shutil.copytree(folder, finished_run.root / "kept")
    for alter, words in ALTERED:
        alter(folder)
        assert words in objection_to_signature(store, version, trust)
        assert objection_to_signature(store, version, TrustSettings()) == ""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kept, folder)

    (folder / "requirements.txt").write_text("")
    params = yaml.safe_load((Path(__file__).parents[3] / "params.yaml").read_text())
    sections = {"model": params["model"] | {"path": BASE}, "trust": {"public_key": trust.public_key, "private_key": ""}}
    Path("params.yaml").write_text(yaml.safe_dump(sections))
    capsys.readouterr()
    assert restore_data(["--version", "champion"]) == 2
    words = (
        f"restore: error: {NAME}: nothing is restored: version 1: was altered since it was signed (changed requirements.txt)\n"
    )
    assert capsys.readouterr().err == words
    shutil.copyfile(kept / "requirements.txt", folder / "requirements.txt")
    store.client.set_model_version_tag(NAME, "1", "adapter_digest", "0" * 64)
    version = store.client.get_model_version(NAME, "1")
    other = "version 1 holds another adapter than its tag adapter_digest names, signed as it is"
    assert objection_to_signature(store, version, trust) == other


def test_without_a_key_nothing_is_signed_and_where_one_is_asked_for_there_is_no_champion(
    finished_run: FinishedRun, trust: TrustSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    finished_run.register(TrustSettings(trust.public_key))
    assert (
        f"register: not champion: version 1: is not signed (there is no version 1/model.sig); {trust.public_key} is asked for"
        in (capsys.readouterr().out)
    )
    assert aliases_of(open_store(), NAME) == {"challenger": "1"}
    assert SIGNED_BY not in tags_of("1")
    assert not Path("artifacts/recommended.sig").exists()
    refused = judge(open_store(), NAME, SETTINGS, trust=trust)
    assert refused.objection.startswith("version 1: is not signed")
    assert judge(open_store(), NAME, SETTINGS).objection == ""

    (folder_of(finished_run.root) / "code/numpy.so").write_text("x")  # what is signed later is what register writes
    finished_run.register(trust)
    said = capsys.readouterr().out
    assert "written again from adapters/checkpoint-000002, since it was not signed by sha256:" in said
    assert "signature: artifacts/recommended.sig, by sha256:" in said
    assert aliases_of(open_store(), NAME) == {"challenger": "1", "champion": "1"}
    assert not (folder_of(finished_run.root) / "code/numpy.so").exists()
    finished_run.register(trust)
    assert f"register: already version 1 of {NAME}\n" in capsys.readouterr().out


def test_promotion_and_rollback_land_on_nothing_unsigned_altered_or_foreign(
    finished_run: FinishedRun, trust: TrustSettings, others: TrustSettings
) -> None:
    finished_run.register(trust)
    finished_run.train(seed=2, code="code-2")
    finished_run.register(others)
    store = open_store()
    foreign = judge(store, NAME, SETTINGS, trust=trust)
    assert foreign.objection.startswith("version 2: is signed with another key (sha256:")
    promote_version(store, judge(store, NAME, SETTINGS), by="ann", run="r1", why="nobody asked for a signature")
    altered = folder_of(finished_run.root) / "MLmodel"
    kept = altered.read_text()
    altered.write_text(f"{kept}\n")
    rolled = {"by": "ann", "run": "r2", "why": "grey"}
    with pytest.raises(PromotionError, match=r"the champion stays, .* version 1: was altered since .* \(changed MLmodel\)"):
        roll_back(store, NAME, **rolled, trust=trust)
    assert aliases_of(store, NAME) == {"challenger": "2", "champion": "2", "previous": "1"}
    altered.write_text(kept)
    assert roll_back(store, NAME, **rolled, trust=trust) == ("1", "2")


LOAD = "import sys, mlflow; [mlflow.pyfunc.load_model(sys.argv[1]) for _ in range(2)]"


def test_a_served_version_refuses_to_be_loaded_altered_or_without_the_servers_own_key(
    finished_run: FinishedRun, trust: TrustSettings, others: TrustSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_run.register(trust)
    uri, folder = f"models:/{NAME}/1", folder_of(finished_run.root)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # what Python leaves behind is no alteration
    subprocess.run([sys.executable, "-c", LOAD, uri], check=True, capture_output=True)
    assert (folder / "__pycache__").is_file()
    assert "model-signing==" in (folder / "requirements.txt").read_text()
    monkeypatch.setenv("TLORA_PUBLIC_KEY", others.public_key)
    with pytest.raises(MlflowException, match=rf"is signed with another key \(.*\) than {others.public_key}"):
        mlflow.pyfunc.load_model(uri)
    monkeypatch.delenv("TLORA_PUBLIC_KEY")
    (folder / "artifacts/tiny-flux/model_index.json").write_text("{}")
    altered = r"was altered since it was signed \(changed artifacts/tiny-flux/model_index\.json\)$"
    with pytest.raises(MlflowException, match=altered):
        mlflow.pyfunc.load_model(uri)
    with pytest.raises(SystemExit, match=altered):
        main(["verify", str(folder), "--public_key", trust.public_key])


def test_what_was_lost_comes_back_as_champion_only_signed(
    finished_run: FinishedRun, trust: TrustSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["git", "init", "--quiet"], check=True)
    finished_run.register(trust)
    store = open_store()
    store.client.delete_registered_model(NAME)
    finished_run.register(TrustSettings(trust.public_key))
    assert f"version 1 of {NAME} is not champion again: version 1: is not signed" in capsys.readouterr().out
    assert aliases_of(open_store(), NAME) == {"challenger": "1"}
