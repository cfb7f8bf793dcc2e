import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import tasks.validate.inspection
from tasks.validate.inspection import inspect_pictures, looks_file
from tests.processes import marked_processes
from tests.tasks.data_folder import run, texture
from tlora.flux.spec import ModelSpec
from tlora.pictures.manifest import read_split

ROOT = Path(__file__).parents[3]


def looks() -> Path:
    (file,) = Path(".state/cache/validate").glob("*.sqlite")
    return file


def widths() -> list[int]:
    split = read_split(Path("artifacts/manifest"))
    return sorted(item.width for item in (*split.train.items, *split.held_out.items))


def test_an_unchanged_picture_is_not_decoded_again_and_a_damaged_memory_is(
    data: Path, base: ModelSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    run(base)
    assert "known" not in capsys.readouterr().out
    with closing(sqlite3.connect(looks())) as kept:
        first, second = (row[0] for row in kept.execute("SELECT digest FROM looks ORDER BY digest LIMIT 2"))
        kept.execute("UPDATE looks SET look = replace(look, '\"width\":96', '\"width\":960') WHERE digest = ?", (first,))
        kept.execute("UPDATE looks SET look = '{' WHERE digest = ?", (second,))
        kept.commit()
    run(base)
    assert widths() == [96, 96, 96, 96, 96, 960]
    assert "validate: 5 of 6 pictures are known from an earlier run\n" in capsys.readouterr().out
    looks().write_bytes(b"not a database at all" * 100)
    run(base)
    assert widths() == [96] * 6
    assert "known" not in capsys.readouterr().out


def test_what_earlier_code_saw_is_forgotten_in_the_end(data: Path, base: ModelSpec) -> None:
    run(base)
    folder, current = looks().parent, looks().name
    for age in range(5):
        (folder / f"{age}.sqlite").write_bytes(b"")
        os.utime(folder / f"{age}.sqlite", (age, age))
    run(base)
    assert {path.name for path in folder.iterdir()} == {current, "2.sqlite", "3.sqlite", "4.sqlite"}


PICTURES = {"boxes", "cicp", "colour", "decode", "described", "files", "heif", "icc", "loss_mask", "samples"}
DECODERS = PICTURES | {"quality", "look_store", "inspection"}


def test_what_is_remembered_is_forgotten_when_a_decoder_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {module.__name__.rpartition(".")[2] for module in tasks.validate.inspection.DECODED_BY} == DECODERS
    before = looks_file(tmp_path, 64)
    for module in tasks.validate.inspection.DECODED_BY:
        changed = tmp_path / "changed.py"
        changed.write_bytes(Path(str(module.__file__)).read_bytes() + b"#")
        with monkeypatch.context() as patched:
            patched.setattr(module, "__file__", str(changed))
            assert looks_file(tmp_path, 64) != before


KILLED = """
import os, signal, sys
from pathlib import Path
import tasks.validate.inspection
from tasks.validate.inspection import inspect_pictures, looks_file
seen = inspect_pictures(sorted(Path().glob("*.png")), 64, Path("looks.sqlite"))
for _ in range(80):
    next(seen)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_seen_before_a_kill_is_not_seen_again_and_no_worker_outlives_it(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n:03d}.png" for n in range(100)]
    for n, path in enumerate(paths):
        texture(n, (40, 40)).save(path)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MARK": str(tmp_path)}
    killed = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    again = list(inspect_pictures(paths, 64, tmp_path / "looks.sqlite"))
    assert [seen.thumbnail is None for seen in again] == [True] * 64 + [False] * 36  # the last transaction was not full
    assert [seen.inspection.picture for seen in again] == [path.name for path in paths]
    assert marked_processes(str(tmp_path)) == []


def test_what_is_named_as_a_caption_and_is_no_file_is_none(tmp_path: Path) -> None:
    """A pipe above all: whoever read it would wait for ever."""
    for name in ("pipe", "folder", "lost", "loop"):
        texture(1).save(tmp_path / f"{name}.png")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "lost.txt").symlink_to("nowhere")
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    seen = inspect_pictures(sorted(tmp_path.glob("*.png")), 64, tmp_path / "looks.sqlite")
    assert [each.inspection.caption for each in seen] == [None] * 4
