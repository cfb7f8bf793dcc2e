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
    crew, log = Crew(dict(os.environ), said.append, lambda pool, runs: None), tmp_path / "mortar.log"
    crew.start(Member("Mortar", (sys.executable, "-c", "raise SystemExit(3)"), log))
    named = rf"^Mortar has ended 6 times in 10 minutes, last exit status 3: see {log}$"
    with pytest.raises(SettingsError, match=named):
        look_after_for_long(crew)
    assert len(said) == RESTARTS
    assert said[-1].endswith(f"has ended, exit status 3; starting it again (5 of 5 times in 10 minutes), see {log}")
