import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows.stages import order_graph, run_stage, stage_order
from tests.flows.brickyard import FAIL, PREEMPTED_ONCE, SLOW, TELLTALE
from tlora.errors import SettingsError

ROOT = Path(__file__).parents[2]


def test_dvc_files_come_first_and_every_stage_after_what_it_needs():
    dot = 'strict digraph  {\n"c";\n"b";\n"z.dvc";\n"a";\n"a" -> "b";\n"b" -> "c";\n"z.dvc" -> "c";\n}\n'
    assert order_graph(dot) == ["z.dvc", "a", "b", "c"]


def test_order_does_not_depend_on_how_the_graph_is_listed():
    assert order_graph('"b";\n"a";\n"c";\n"c" -> "a";') == order_graph('"c" -> "a";\n"c";\n"a";\n"b";')


@pytest.mark.slow
def test_order_is_the_one_that_dvc_names(brickyard: Path):
    assert stage_order() == ["data.dvc", "weigh", "double", "announce"]


@pytest.mark.slow
def test_unreadable_dvc_yaml_is_refused_in_dvcs_words(brickyard: Path):
    (brickyard / "dvc.yaml").write_text("stages: {weigh: {comand: true}}\n")
    with pytest.raises(
        SettingsError, match=r"dvc\.yaml' validation failed.*extra keys not allowed, in stages -> weigh -> comand"
    ):
        stage_order()


@pytest.mark.slow
def test_a_folder_that_is_no_repository_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=f"'dvc dag --dot' in {tmp_path}: you are not inside of a DVC repository"):
        stage_order()


@pytest.mark.slow
def test_a_stage_is_run_then_skipped_then_restored(brickyard: Path):
    lines: list[str] = []
    assert run_stage("weigh", lines.append).outcome == "Completed"
    assert "Running stage 'weigh':" in lines
    assert run_stage("weigh", lines.append).outcome == "Skipped"
    (brickyard / "weight.txt").unlink()
    (brickyard / "dvc.lock").unlink()
    assert run_stage("weigh", lines.append).outcome == "Restored"
    assert (brickyard / "weight.txt").read_text() == "6\n"


@pytest.mark.slow
def test_a_dvc_file_is_skipped_until_its_folder_changes(brickyard: Path):
    assert run_stage("data.dvc", print).outcome == "Skipped"
    (brickyard / "data" / "stone.txt").write_text("stone\n")
    assert run_stage("data.dvc", print).outcome == "Completed"


@pytest.mark.slow
def test_a_failed_stage_gives_its_own_reason(brickyard: Path):
    (brickyard / "announce.sh").write_text(FAIL)
    (brickyard / "double.txt").write_text("6\n6\n")
    run = run_stage("announce", print)
    assert (run.outcome, run.reason) == ("Failed", "no bricks to announce")


@pytest.mark.slow
def test_a_stage_that_left_no_word_gives_dvcs_reason_and_not_an_old_one(brickyard: Path):
    (brickyard / "announce.sh").write_text(FAIL)
    (brickyard / "double.txt").write_text("6\n6\n")
    run_stage("announce", print)
    (brickyard / "announce.sh").write_text("exit 3\n")
    run = run_stage("announce", print)
    assert (run.outcome, run.reason) == ("Failed", "failed to reproduce 'announce': failed to run: sh announce.sh, exited with 3")


@pytest.mark.slow
def test_a_stage_that_could_leave_no_word_gives_the_reason_that_it_printed(brickyard: Path):
    (brickyard / "announce.sh").write_text("echo 'announce: error: No space left on device' >&2\nexit 2\n")
    (brickyard / "double.txt").write_text("6\n6\n")
    assert run_stage("announce", print).reason == "No space left on device"


@pytest.mark.slow
def test_a_preempted_stage_is_told_from_a_failed_one(brickyard: Path):
    (brickyard / "announce.sh").write_text(PREEMPTED_ONCE)
    (brickyard / "double.txt").write_text("6\n6\n")
    first, second = run_stage("announce", print), run_stage("announce", print)
    assert (first.outcome, first.reason) == ("Preempted", "saved at step 7")
    assert second.outcome == "Completed"


@pytest.mark.slow
def test_an_interrupted_call_lets_the_stage_save_and_leaves_no_process(brickyard: Path):
    (brickyard / "announce.sh").write_text(SLOW)
    (brickyard / "double.txt").write_text("6\n6\n")
    lines: list[str] = []

    def interrupt(line: str) -> None:
        lines.append(line)
        if line == "started":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage("announce", interrupt)
    assert (brickyard / "saved").exists()
    assert "saving" in lines
    assert not _processes_in(brickyard)


@pytest.mark.slow
def test_a_stage_that_will_not_stop_is_killed(brickyard: Path):
    (brickyard / "announce.sh").write_text("trap '' TERM\necho started\nsleep 60\n")
    (brickyard / "double.txt").write_text("6\n6\n")

    def interrupt(line: str) -> None:
        if line == "started":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage("announce", interrupt, grace_seconds=0.5)
    assert not _processes_in(brickyard)


@pytest.mark.slow
def test_a_stage_is_given_its_secrets_and_no_line_shows_them(brickyard: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "under-the-mat")
    (brickyard / "announce.sh").write_text(TELLTALE)
    (brickyard / "double.txt").write_text("6\n6\n")
    lines: list[str] = []
    run = run_stage("announce", lines.append, secrets={"HF_TOKEN": "hf_bricks"})
    assert (brickyard / "told").read_text() == "hf_bricks under-the-mat\n"
    assert {"401 for ***", "*** is wrong too"} <= {*lines}
    assert run.reason == "*** is no token"


@pytest.mark.slow
@pytest.mark.parametrize(("trap", "saved"), [(SLOW, True), ("trap '' TERM\necho started\nsleep 60\n", False)])
def test_a_flow_that_is_killed_takes_its_stage_along(brickyard: Path, trap: str, saved: bool):
    """Killed with -9, that is: nothing in the flow can run any more, and its end of the stage's output is closed."""
    (brickyard / "announce.sh").write_text(trap)
    (brickyard / "double.txt").write_text("6\n6\n")
    code = "from flows.stages import run_stage; run_stage('announce', lambda line: print(line, flush=True), grace_seconds=2)"
    flow = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    with flow:
        assert flow.stdout is not None
        assert any(line == "started\n" for line in flow.stdout)
        flow.kill()
    deadline = time.monotonic() + 30
    while _processes_in(brickyard) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _processes_in(brickyard)
    assert (brickyard / "saved").exists() == saved


def _processes_in(folder: Path) -> list[list[str]]:
    """Return the commands of the processes whose working folder this is."""
    processes = psutil.process_iter(["cwd", "cmdline"])
    return [process.info["cmdline"] for process in processes if process.info["cwd"] == str(folder) and process.pid != os.getpid()]
