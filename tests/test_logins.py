"""MLflow and Prefect with logins: all works for those who have one; for the others it is a line, and nothing changes."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tasks.registry.promotion import roll_back
from tasks.tracking.store import TrackingError, explained_failures, open_store
from tests.clone import ROOT, Clone
from tests.flows.kiln import fill_kiln, make_repository
from tests.services.orchestrator import Orchestrator, open_orchestrator
from tests.services.tracking import ADMIN, PASSWORDS, Tracking, account, make_accounts, open_tracking
from tests.tasks.filled_registry import NAME
from tlora.runtime.atomic_file import write_text

pytestmark = pytest.mark.slow

LOGIN = "mason:" + "trowel-" * 3
REGISTER = "from tasks.tracking.store import open_store; from tests.tasks.filled_registry import add_version; "


@dataclass(frozen=True)
class Site:
    """Both servers, and a pipeline of seconds whose people are told where they are."""

    tracking: Tracking
    orchestrator: Orchestrator
    folder: Path
    clone: Clone
    printed: list[str]

    def run(self, who: str, *module: str, password: str = "", fails: bool = False) -> str:
        """Run a module as somebody, and return what it printed."""
        person = Clone(self.clone.folder)
        person.environment |= {**self.clone.environment, **account(self.tracking, who, password)}
        self.printed.append(person.run(sys.executable, *module, fails=fails))
        return self.printed[-1]

    def aliases(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
        """Return which versions have which aliases, as a reader sees it."""
        for name, value in account(self.tracking, "reader").items():
            monkeypatch.setenv(name, value)
        return {
            name: str(version) for name, version in MlflowClient(self.tracking.url).get_registered_model(NAME).aliases.items()
        }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    for name in ("mlflow", "prefect"):
        (folder / name).mkdir()
    make_repository(folder / "kiln")
    fill_kiln(folder / "kiln")
    clone = Clone(folder / "kiln")
    database = f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}"
    with (
        open_tracking(folder / "mlflow", database, login=True) as tracking,
        open_orchestrator(folder / "prefect", login=LOGIN) as orchestrator,
    ):
        make_accounts(tracking, NAME)
        clone.environment |= {**orchestrator.environment, "PYTHONPATH": str(ROOT)}
        yield Site(tracking, orchestrator, folder, clone, [])


def last_line(output: str) -> str:
    return output.splitlines()[-1]


def test_a_trainer_runs_the_pipeline_as_a_flow_and_registers(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert last_line(site.run("trainer", "-m", "flows.pipeline")) == "pipeline: ran train, register"
    site.run("trainer", "-c", f"{REGISTER}add_version(open_store(), 'champion'); add_version(open_store(), 'challenger')")
    assert site.aliases(monkeypatch) == {"champion": "2", "challenger": "3"}


def test_a_wrong_password_is_a_line(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    before = site.aliases(monkeypatch)
    wrong = f"MLflow store {site.tracking.url}: the name or password is wrong or missing: "
    said = site.run("trainer", "-m", "flows.promote", "--model", NAME, password="none of theirs", fails=True)
    assert last_line(said).startswith(f"promote: error: {wrong}"), said
    assert "Traceback" not in said
    assert site.aliases(monkeypatch) == before


def test_a_reader_reads_and_cannot_promote(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    before, decisions = site.aliases(monkeypatch), site.clone.folder / "decisions.jsonl"
    decided = decisions.read_bytes() if decisions.exists() else b""
    said = site.run("reader", "-m", "flows.promote", "--model", NAME, fails=True)
    refusal = f"promote: error: MLflow store {site.tracking.url}: this account may not do that: "
    assert last_line(said).startswith(refusal), said
    assert site.aliases(monkeypatch) == before
    assert (decisions.read_bytes() if decisions.exists() else b"") == decided


def test_a_promoter_promotes_and_rolls_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    said = site.run("promoter", "-m", "flows.promote", "--model", NAME)
    assert last_line(said).startswith(f"promote: version 3 of {NAME} is champion, version 2 is previous"), said
    for name, value in account(site.tracking, "trainer").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrackingError, match="this account may not do that"), explained_failures():
        roll_back(open_store(), NAME, by="trainer", run="by hand", why="not for trainers")
    assert site.aliases(monkeypatch)["champion"] == "3"
    said = site.run("promoter", "-m", "flows.promote", "--model", NAME, "--rollback")
    assert last_line(said).startswith(f"rollback: version 2 of {NAME} is champion again"), said
    assert site.aliases(monkeypatch)["champion"] == "2"


def test_prefect_turns_away_whoever_lacks_its_password_in_a_line(site: Site) -> None:
    turned_away = f"Prefect at {site.orchestrator.url} turns this client away: PREFECT_API_AUTH_STRING (name:password)"
    stranger = Clone(site.clone.folder)
    stranger.environment |= {**site.clone.environment, "PREFECT_API_AUTH_STRING": "mason:none-of-theirs"}
    said = stranger.run(sys.executable, "-m", "flows.pipeline", fails=True)
    assert said == f"pipeline: error: {turned_away} is wrong or not set\n"
    del stranger.environment["PREFECT_API_AUTH_STRING"]
    table = stranger.run(sys.executable, "-m", "flows.check", fails=True)
    assert [line for line in table.splitlines() if turned_away in line], table


def test_the_passwords_are_nowhere(site: Site) -> None:
    """Printed by a stage too: a flow strikes them out of its log."""
    stages = site.clone.folder / "dvc.yaml"
    write_text(stages, stages.read_text().replace("> adapter.txt", "> adapter.txt; env"))
    assert "MLFLOW_TRACKING_PASSWORD=***" in site.run("trainer", "-m", "flows.pipeline")
    files = [path for path in site.folder.rglob("*") if path.is_file()]
    assert {"mlflow.db", "prefect.db", "accounts.db", "server.log", "log", "dvc.lock"} <= {path.name for path in files}
    texts = {str(path): path.read_bytes() for path in files} | {"printed": "".join(site.printed).encode()}
    for secret in (*PASSWORDS.values(), LOGIN, LOGIN.partition(":")[2]):
        assert [name for name, content in texts.items() if secret.encode() in content] == []
    assert ADMIN.encode() in texts[str(site.folder / "mlflow/accounts.db")]
