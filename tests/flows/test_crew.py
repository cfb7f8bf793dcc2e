"""What has died is started again, and what cannot stand is named."""

import os
import sys
from pathlib import Path

import pytest

from flows.crew import RESTARTS, Crew, Member
from tlora.errors import SettingsError


def look_after_for_long(crew: Crew) -> None:
    for _ in range(100):
        crew.look_after()


def test_what_ends_again_and_again_is_named_with_its_log_after_so_many_times(tmp_path: Path) -> None:
    said: list[str] = []
    crew, log = Crew(dict(os.environ), said.append, lambda pool, runs: True), tmp_path / "mortar.log"
    crew.start(Member("Mortar", (sys.executable, "-c", "raise SystemExit(3)"), log))
    named = rf"^Mortar has ended 6 times in 10 minutes, last exit status 3: see {log}$"
    with pytest.raises(SettingsError, match=named):
        look_after_for_long(crew)
    assert len(said) == RESTARTS
    assert said[-1].endswith(f"has ended, exit status 3; starting it again (5 of 5 times in 10 minutes), see {log}")


def test_a_worker_that_ends_while_prefect_is_away_is_started_once_it_is_back(tmp_path: Path) -> None:
    said: list[str] = []
    answers = iter([False, False, True])
    crew = Crew(dict(os.environ), said.append, lambda pool, runs: next(answers, True))
    lives = tmp_path / "lives"
    work = f"import pathlib, time; path = pathlib.Path({str(lives)!r}); old = path.exists(); path.touch(); time.sleep(60 * old)"
    crew.start(Member("worker clay", (sys.executable, "-c", work), tmp_path / "clay.log", pool="clay"))
    for _ in range(6):
        crew.look_after()
    assert [line.split(";")[0].split(")")[1] for line in said] == [" has ended, exit status 0"]  # named once, though tried thrice
    assert next(answers, "all asked") == "all asked"
    (process,) = crew._processes.values()
    assert process.is_running()
    process.kill()
    process.wait()
