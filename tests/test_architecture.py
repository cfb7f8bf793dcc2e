"""docs/architecture.md is drawn from the code, and names only what there is."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOUSE = runpy.run_path(str(ROOT / "docs" / "house.py"))
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_picture_and_table_are_those_of_the_code_run_docs_house_py_if_not():
    assert (ROOT / "docs/pictures/house.svg").read_text(encoding="utf-8") == HOUSE["picture"]()
    assert HOUSE["page"](PAGE) == PAGE


def test_every_file_and_room_that_the_page_names_is_there():
    named = re.findall(r"`((?:tlora|tasks|flows|docs|params)(?:/[\w.]*)+)`", PAGE)
    assert len(named) > 60
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_room_says_in_one_sentence_what_it_is_for_and_holds_no_code():
    rooms = [path.parent for package in ("tlora", "tasks") for path in (ROOT / package).glob("*/__init__.py")]
    reasons = {room.name: HOUSE["reason"](room.parent.name, room.name) for room in rooms}
    assert len(reasons) >= 18
    assert [name for name, reason in reasons.items() if not 10 < len(reason) < 160] == []


def test_no_two_rooms_import_each_other_and_little_lies_in_the_open():
    assert all(line.endswith(" 0 circles") for line in HOUSE["count"]().splitlines())
    assert len(list((ROOT / "tlora").glob("[a-z]*.py"))) <= 14
