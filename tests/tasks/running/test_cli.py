"""A stage as a command: what it is given, how it ends, and what it says when something is wrong with what it was given."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tasks.running.cli import read_params, run_stage
from tlora.errors import ModelError, SettingsError
from tlora.runtime.preemption import Preempted

PARAMS = """
knead:
  minutes: 3
  gentle: false
oven:
  degrees: 2.1e2
"""


@dataclass(frozen=True)
class Knead:
    minutes: int
    gentle: bool


@dataclass(frozen=True)
class Oven:
    degrees: float


@pytest.fixture
def kitchen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a params.yaml, outside any repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "params.yaml").write_text(PARAMS)
    return tmp_path


def stage_that(act: Callable[[], Any]) -> Callable[..., None]:
    """Return a stage named `knead` that does something."""

    def knead(settings: Knead, *, dough: Path) -> None:
        act()

    return knead


def run(stage: Callable[..., None], *arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        run_stage(stage, list(arguments))
    return int(end.value.code or 0)


def left_behind(folder: Path) -> dict[str, Any]:
    return json.loads((folder / ".state" / "last_exit.json").read_text())


def test_sections_become_settings_and_options_become_paths(kitchen: Path) -> None:
    seen: list[Any] = []

    def knead(settings: Knead, oven: Oven, *, dough: Path, bread_tin: Path = Path("tin")) -> None:
        seen.extend([settings, oven, dough, bread_tin])

    assert run(knead, "--dough", "a/b") == 0
    assert seen == [Knead(3, False), Oven(210.0), Path("a/b"), Path("tin")]
    assert run(knead, "--dough", "a/b", "--bread-tin", "c") == 0
    assert seen[-1] == Path("c")
    assert left_behind(kitchen) == {"stage": "knead", "code": 0, "reason": "", "pid": os.getpid()}


@pytest.mark.parametrize(
    ("params", "line"),
    [
        (PARAMS.replace("minutes", "minuts"), "params.yaml: knead: unknown key 'minuts', did you mean 'minutes'?"),
        (PARAMS.replace("  gentle: false\n", ""), "params.yaml: knead: missing key 'gentle'"),
        (PARAMS.replace("3", "true"), "params.yaml: knead.minutes: must be a whole number, got True"),
        (PARAMS.replace("knead", "bake"), "params.yaml: section 'knead' is missing or is not a mapping"),
        ("knead: 3", "params.yaml: section 'knead' is missing or is not a mapping"),
        ("", "params.yaml: must be a mapping of sections"),
        ("- 3", "params.yaml: must be a mapping of sections"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(
    kitchen: Path, capsys: pytest.CaptureFixture[str], params: str, line: str
) -> None:
    (kitchen / "params.yaml").write_text(params)
    assert run(stage_that(lambda: pytest.fail("must not run")), "--dough", "x") == 2
    assert capsys.readouterr().err == f"knead: error: {line}\n"
    assert left_behind(kitchen)["reason"] == line


def test_params_that_are_no_yaml_are_one_line(kitchen: Path) -> None:
    (kitchen / "params.yaml").write_text("knead: [3\nminutes: {")
    with pytest.raises(SettingsError, match=r"^params\.yaml: not valid YAML: .*line 2, column 8") as refusal:
        read_params(Path("params.yaml"))
    assert "\n" not in str(refusal.value)


def test_params_that_are_missing_are_said_and_what_to_copy(kitchen: Path) -> None:
    (kitchen / "params.yaml").unlink()
    with pytest.raises(SettingsError, match=r"^params\.yaml: no such file \(params/pocket\.yaml is a complete one to copy\)$"):
        read_params(Path("params.yaml"))


def test_another_params_file_can_be_named(kitchen: Path) -> None:
    (kitchen / "params.yaml").rename(kitchen / "other.yaml")
    assert run(stage_that(lambda: None), "--dough", "x", "--params", "other.yaml") == 0


@pytest.mark.usefixtures("kitchen")
def test_a_path_that_is_not_given_or_not_known_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(stage_that(lambda: None)) == 2
    assert "the following arguments are required: --dough" in capsys.readouterr().err
    assert run(stage_that(lambda: None), "--dough", "x", "--flour", "y") == 2
    assert "unrecognized arguments: --flour y" in capsys.readouterr().err


def raising(error: BaseException) -> Callable[..., None]:
    def act() -> None:
        raise error

    return stage_that(act)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ModelError("models/x: no base model there"), 2, "knead: error: models/x: no base model there"),
        (Preempted("saved at step 7"), 75, "knead: stopped: saved at step 7"),
        (
            FileNotFoundError(2, "No such file or directory", "data/a.png"),
            2,
            "knead: error: No such file or directory: data/a.png",
        ),
        (PermissionError(13, "Permission denied"), 2, "knead: error: Permission denied"),
        (KeyboardInterrupt(), 130, "knead: error: stopped by the keyboard or a signal"),
    ],
)
def test_what_can_go_wrong_is_one_line_and_an_exit_code(
    kitchen: Path, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    assert run(raising(error), "--dough", "x") == code
    assert capsys.readouterr().err == f"{line}\n"
    assert left_behind(kitchen) == {"stage": "knead", "code": code, "reason": line.split(": ", 2)[2], "pid": os.getpid()}


@pytest.mark.usefixtures("kitchen")
def test_what_is_our_own_fault_is_not_dressed_up_as_yours() -> None:
    with pytest.raises(ZeroDivisionError):
        run_stage(raising(ZeroDivisionError()), ["--dough", "x"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_first_signal_ends_in_good_order_and_a_second_of_either_kind_at_once(kitchen: Path, number: signal.Signals) -> None:
    found: list[Any] = []

    def knead(settings: Knead, *, dough: Path) -> None:
        try:
            signal.raise_signal(number)
        finally:
            found.extend(map(signal.getsignal, (signal.SIGTERM, signal.SIGINT)))

    assert run(knead, "--dough", "x") == 130
    assert left_behind(kitchen)["reason"] == "stopped by the keyboard or a signal"
    assert found == [signal.SIG_DFL, signal.SIG_DFL]


def test_linked_worktrees_share_one_state_folder_but_not_how_a_stage_ended(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        git init -q main && cd main && git -c user.name=x -c user.email=x commit -q --allow-empty -m x
        git worktree add -q ../linked && cd ../linked
    """)
    subprocess.run(["sh", "-ec", script], cwd=tmp_path, check=True)
    code = "from tasks.running.state_folder import exit_file, state_folder; print(state_folder('train', 'abc'), exit_file())"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    for folder in ("main", "linked"):
        answer = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path / folder, env=environment, capture_output=True, text=True, check=True
        )
        shared, own = tmp_path / "main" / ".state" / "train" / "abc", tmp_path / folder / ".state" / "last_exit.json"
        assert answer.stdout.split() == [str(shared), str(own)]
