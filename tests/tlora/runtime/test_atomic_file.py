"""Files that several processes write at once are one of them, whole, and no process fails over another's temporary file."""

import json
import multiprocessing
from pathlib import Path

from tlora.runtime.atomic_file import write_json


def _write_often(path: Path, number: int) -> None:
    for _ in range(100):
        write_json(path, [number] * 2000)


def test_processes_that_write_one_file_do_not_disturb_one_another(tmp_path: Path) -> None:
    path = tmp_path / "shared.json"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_often, args=(path, number)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert len(set(json.loads(path.read_text()))) == 1
    assert [*tmp_path.iterdir()] == [path]
