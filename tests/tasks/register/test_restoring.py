"""A registry that was lost, made again from decisions.jsonl and DVC: the same numbers, aliases, history and refusals."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tasks.dvc_command import run_dvc
from tasks.registry.decisions import decisions_file, read_decisions
from tasks.registry.promotion import judge, note_refusal, promote_version, roll_back
from tasks.registry.verdict import PromoteSettings
from tasks.registry.versions import aliases_of, versions_of
from tasks.registry.votes import Vote, cast, open_pair, read_round
from tasks.tracking.store import open_store
from tests.tasks.finished_run import BASE, NAME, FinishedRun
from tlora.flux.files import base_revision
from tlora.flux.spec import ModelSpec

pytestmark = pytest.mark.slow
SETTINGS = PromoteSettings()
VOTE = Vote("eve", "a matbrk wall", 7, "both bad")
OUTS = [
    "adapters",
    "artifacts/recommended",
    "artifacts/grids",
    "artifacts/pictures",
    "reports/train",
    "reports/evaluate",
    "artifacts/manifest",
]


def run_before(run: FinishedRun, seed: int) -> None:
    """Let the stages before `register` have run, as DVC sees it: nobody commits what they leave."""
    run.train(seed=seed, base_revision=base_revision(ModelSpec(BASE)))
    run.evaluate("checkpoint-000002")
    shutil.copy("metrics/evaluate.json", "reports/evaluate/evaluate.json")
    run_dvc("commit", "--force", "--quiet", "all")


def state() -> tuple[dict[str, str], dict[str, str], dict[str, tuple[str, str]]]:
    """Return what must come back: the aliases, the history, and of each version its adapter and what was decided of it."""
    store = open_store()
    history = store.client.get_registered_model(NAME).tags
    versions = {
        str(version.version): (version.tags["adapter_digest"], version.tags.get("promotion.event", ""))
        for version in versions_of(store, NAME)
    }
    return aliases_of(store, NAME), dict(history), versions


def lose_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with an empty store: of a file that is deleted under it MLflow keeps a pool of connections."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{Path.cwd()}/mlflow.db{len(list(Path().glob('mlflow.db*')))}")


@pytest.fixture
def decided(finished_run: FinishedRun, store_file: Path, monkeypatch: pytest.MonkeyPatch) -> FinishedRun:
    """Return a tree in which 1 was champion, 2 is, 3 was promoted and rolled back, and 4 was refused."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(finished_run.root / "site"))
    Path(".gitignore").write_text("/mlflow.db*\n/mlartifacts\n/.state\n")
    subprocess.run(["git", "init", "--quiet"], check=True)
    run_dvc("init", "--quiet")
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"all": {"cmd": "true", "outs": OUTS}}}))
    for seed in (1, 2, 3, 4):
        run_before(finished_run, seed)
        finished_run.register()
        store = open_store()
        if seed in (2, 3):
            promote_version(store, judge(store, NAME, SETTINGS), by="ann", run="amber-fox", why="better mortar")
        if seed == 3:
            roll_back(store, NAME, by="bob", run="calm-owl", why="grey joints")
    note_refusal(store, judge(store, NAME, SETTINGS), by="ann", run="red-hen", why="it copies")
    cast(store, *open_pair(store, NAME), VOTE)
    return finished_run


def test_the_same_comes_back_and_what_was_refused_does_not_become_champion(
    decided: FinishedRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    before = state()
    assert before[0] == {"champion": "2", "challenger": "4"}
    assert [event for _, event in before[2].values()] == ["refused", "rolled back", "restored", "promoted"]
    lines = decisions_file().read_text()
    lose_store(monkeypatch)
    decided.register()
    assert state() == before
    assert read_round(open_store(), *open_pair(open_store(), NAME)).votes == (VOTE,)
    assert decisions_file().read_text() == lines
    said = capsys.readouterr().out
    assert f"restored {NAME} from what was decided: versions 1, 2, 3, 4; challenger 4, champion 2" in said
    assert f"already version 4 of {NAME}" in said

    lose_store(monkeypatch)
    second = read_decisions()[2]
    assert (second.event, second.version, second.made_of is not None) == ("registered", "2", True)
    assert second.made_of is not None
    digest = second.made_of.outputs["adapters"]
    (Path(".dvc/cache/files/md5") / digest[:2] / digest[2:]).unlink()
    shutil.rmtree(".dvc/tmp", ignore_errors=True)
    decided.register()
    aliases, _, versions = state()
    assert (aliases, sorted(versions)) == ({"challenger": "4"}, ["1", "3", "4"]), "nothing takes a lost champion's place"
    said = capsys.readouterr().out
    assert f"version 2 of {NAME} cannot be restored: DVC's cache does not hold adapters ({digest})" in said
    assert judge(open_store(), NAME, SETTINGS).objection == "version 4 was refused (it copies)"


def test_another_branch_of_git_still_knows_what_was_decided(decided: FinishedRun, monkeypatch: pytest.MonkeyPatch):
    for command in (
        ("add", "decisions.jsonl"),
        ("commit", "--quiet", "-m", "decisions"),
        ("checkout", "--quiet", "--orphan", "other"),
    ):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@localhost", *command], check=True)
    subprocess.run(["git", "rm", "--quiet", "--cached", "decisions.jsonl"], check=True)
    before = state()
    decisions_file().unlink()
    lose_store(monkeypatch)
    decided.register()
    assert state() == before
