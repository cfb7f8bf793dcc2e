"""Training under `make serve` when a process around it is killed, with -9 and with TERM: its work is saved, and it goes on."""

import json
import signal
from collections.abc import Iterator

import pytest

from tests.flows.served import Served
from tests.flows.site import wait_until

pytestmark = pytest.mark.slow

LONG = {"max_train_steps": 100_000, "checkpointing_steps": 50_000, "state_steps": 100_000}  # saved when asked to stop, or never
SECONDS = 300


class Training:
    """A run that trains until it is cancelled."""

    def __init__(self, served: Served, run: str) -> None:
        self.served, self.run = served, run

    def step(self) -> int:
        """Return the step that it has reached."""
        logs = self.served.clone.folder.glob(".state/train/*/log.jsonl")
        newest = max(logs, key=lambda log: log.stat().st_mtime, default=None)
        lines = newest.read_text().splitlines() if newest else []
        return int(json.loads(lines[-1])["step"]) if lines else 0

    def saved(self) -> int:
        """Return the newest step whose state is saved."""
        states = self.served.clone.folder.glob(".state/train/*/state-*")
        return max((int(state.stem.removeprefix("state-")) for state in states), default=0)

    def count(self) -> int:
        """Return how often it was begun."""
        return int(self.served.read(f"/flow_runs/{self.run}")["run_count"])

    def goes_on(self) -> None:
        """Wait until it has made two more steps."""
        now = self.step()
        wait_until(lambda: self.step() >= now + 2, f"step {now + 2}, {self.served.out()}", SECONDS)

    def lose(self, signum: signal.Signals, *names: str) -> None:
        """Send a signal to servers and workers, and wait until each has been named."""
        members = self.served.members()
        for name in names:
            members[name].send_signal(signum)
        for name in names:
            self.served.wait_for_line(f"serve: {name} (process {members[name].pid}) has ended")


@pytest.fixture(scope="module")
def training(served: Served) -> Iterator[Training]:
    served.clone.change_params("params.yaml", {f"train.{name}": value for name, value in LONG.items()})
    begun = Training(served, served.request("pipeline/on-demand"))
    served.wait(begun.run, {"RUNNING"})
    before = begun.step()  # of an earlier run
    wait_until(lambda: begun.step() not in (0, before), f"training, {served.out()}", SECONDS)
    yield begun
    served.ask(f"/flow_runs/{begun.run}/set_state", state={"type": "CANCELLING"})
    assert served.wait(begun.run)["state_type"] == "CANCELLED"
    served.clone.run("git", "checkout", "--quiet", "params.yaml")


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_dies_leaves_a_saved_step_from_which_the_run_goes_on(training: Training, signum: signal.Signals) -> None:
    training.goes_on()
    step, saved, count = training.step(), training.saved(), training.count()
    training.lose(signum, "worker gpu")
    wait_until(lambda: training.saved() > saved, "its state saved", 60)
    assert training.saved() >= step
    wait_until(lambda: training.count() > count, f"begun again, {training.served.out()}", SECONDS)
    wait_until(lambda: training.step() > training.saved(), f"training again, {training.served.out()}", SECONDS)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_training_does_not_notice_that_servers_and_the_other_worker_die(training: Training, signum: signal.Signals) -> None:
    count, saved = training.count(), training.saved()
    training.lose(signum, "Prefect", "MLflow", "worker cpu")
    training.goes_on()
    assert (training.count(), training.saved()) == (count, saved)


def test_make_serve_killed_itself_and_started_again_lets_the_run_save_and_go_on(training: Training) -> None:
    training.goes_on()
    step, count = training.step(), training.count()
    training.served.process.kill()
    training.served.start_again()
    assert "serve: 1 running, being asked to save" in training.served.out()
    assert training.saved() >= step
    wait_until(lambda: training.count() > count, f"begun again, {training.served.out()}", SECONDS)
    wait_until(lambda: training.step() > training.saved(), f"training again, {training.served.out()}", SECONDS)
