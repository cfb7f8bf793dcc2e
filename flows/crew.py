"""Keeps the servers and workers of `make serve` at work: one that has ended is named and started again, so often and no more.

A run whose worker has gone saves its state and goes on with the next worker.
"""

import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from flows import processes
from tlora.errors import SettingsError

POOLS = {"gpu": 1, "cpu": 4}  # work pool -> runs at once: one card takes one run, and what waits for a person takes no card
RESTARTS, WITHIN_SECONDS = 5, 600.0  # of each: a stumble is put right, and what cannot stand is said
STARTUP_SECONDS = 180.0  # a loaded machine takes a minute


@dataclass(frozen=True)
class Member:
    """A server or a worker.

    Args:
        name: As people are told.
        command: What runs it.
        log: Where its output goes.
        address: What answers once it is up; a worker has none.
        pool: Where a worker takes its runs from.
    """

    name: str
    command: tuple[str, ...]
    log: Path
    address: str = ""
    pool: str = ""


class Crew:
    """The servers and workers, in the order in which they need each other.

    Args:
        environment: What each of them is told.
        say: Where a line goes about what has happened.
        let_go_on: Called with the pool of a worker that has ended and the runs that it carried, once they have saved; whether
            Prefect was there to be told.
    """

    def __init__(
        self, environment: Mapping[str, str], say: Callable[[str], None], let_go_on: Callable[[str, list[str]], bool]
    ) -> None:
        self.environment, self._say, self._let_go_on = environment, say, let_go_on
        self._waiting: set[Member] = set()  # those that have ended and are not started again yet
        self._processes: dict[Member, psutil.Popen] = {}
        self._ended: dict[Member, list[float]] = {}
        self._runs: dict[Member, dict[str, psutil.Process]] = {}

    def start(self, member: Member) -> None:
        """Start one."""
        self._processes[member] = processes.start(member.command, member.log, self.environment)
        self._runs[member] = {}

    def wait_until_up(self, member: Member) -> None:
        """Wait until a server answers.

        Raises:
            SettingsError: If it does not, or has ended.
        """
        if not self._answers(member):
            raise SettingsError(f"{member.name}: {member.address} does not answer, see {member.log}")

    def look_after(self) -> None:
        """Look after everybody for about a second.

        Raises:
            SettingsError: If one ends again and again, or does not come up again.
        """
        gone, _ = psutil.wait_procs(list(self._processes.values()), timeout=1.0)
        for member in [member for member, process in self._processes.items() if process in gone]:
            self._start_again(member)
        for member, process in self._processes.items():
            if member.pool and not processes.is_dead(process):
                self._runs[member] = processes.runs_below(process)
        processes.reap_adopted({process.pid for process in self._processes.values()})

    def _start_again(self, member: Member) -> None:
        if member not in self._waiting:
            self._bury(member)
        if member.pool and not self._let_go_on(member.pool, list(self._runs[member])):
            return  # Prefect is away too: its worker is started once the runs of the last one wait for it
        self._waiting.discard(member)
        self.start(member)
        if member.address and not self._answers(member) and not processes.is_dead(self._processes[member]):
            raise SettingsError(f"{member.name}: {member.address} does not answer again, see {member.log}")

    def _bury(self, member: Member) -> None:
        """Name what has ended, let its runs save, and end what it leaves."""
        process, now = self._processes[member], time.monotonic()
        ended = [moment for moment in self._ended.get(member, []) if now - moment < WITHIN_SECONDS] + [now]
        self._ended[member] = ended
        how = how_it_ended(process.returncode)
        if len(ended) > RESTARTS:
            minutes = f"{WITHIN_SECONDS / 60:.0f} minutes"
            raise SettingsError(f"{member.name} has ended {len(ended)} times in {minutes}, last {how}: see {member.log}")
        count = f"{len(ended)} of {RESTARTS} times in {WITHIN_SECONDS / 60:.0f} minutes"
        self._say(f"{member.name} (process {process.pid}) has ended, {how}; starting it again ({count}), see {member.log}")
        if member.pool:
            self._save_runs(member)
        processes.kill_session(process.pid)
        self._waiting.add(member)

    def _save_runs(self, member: Member) -> None:
        """Let the runs of a worker that has gone save, and end."""
        runs = self._runs[member]
        if runs:
            self._say(f"{member.name}: {len(runs)} running, being asked to save, to go on with the next worker")
        processes.stop_all(list(runs.values()), processes.SECONDS_TO_SAVE)
        orphans = [process for process in processes.below_this() if processes.environment_of(process).get(processes.RUN) in runs]
        for orphan in processes.wait_for_end(orphans, processes.SECONDS_TO_SAVE):
            with suppress(psutil.NoSuchProcess):
                orphan.kill()

    def _answers(self, member: Member) -> bool:
        deadline = time.monotonic() + STARTUP_SECONDS
        while time.monotonic() < deadline and not processes.is_dead(self._processes[member]):
            if answers(member.address):
                return True
            time.sleep(0.5)
        return False


def answers(url: str) -> bool:
    """Whether an address answers with success."""
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except urllib.error.HTTPError as error:
        error.close()  # an answer too: its connection stays open till then
    except OSError:
        pass
    return False


def how_it_ended(code: int | None) -> str:
    """Return an exit status in words.

    Example:
        >>> how_it_ended(-9), how_it_ended(1)
        ('killed by SIGKILL', 'exit status 1')
    """
    return f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit status {code}"
