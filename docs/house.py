"""Draw the house from the code: rooms by the floors of the import rules, each with the reason that its `__init__` gives.

`python docs/house.py` writes docs/pictures/house.svg and the table of rooms in docs/architecture.md; `--count` prints how many
files, rooms, arrows between rooms and circles there are.
"""

import argparse
import ast
import html
import tomllib
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PAGE, PICTURE = ROOT / "docs" / "architecture.md", ROOT / "docs" / "pictures" / "house.svg"
BEGIN, END = "<!-- rooms: written by docs/house.py -->\n", "<!-- end of rooms -->\n"
PACKAGES = ("studio", "flows", "tasks", "tlora")
WIDE, BOX, FLOOR, TITLE = 720, 30, 40, 34  # pixels of the picture


def floors(package: str) -> list[list[str]]:
    """Return the rooms and files of a package, highest floor first, as pyproject.toml's import rules have them.

    A flat package has no floors.
    """
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    layers = next((rule["layers"] for rule in rules if rule.get("containers") == [package]), ())
    return [[name.strip() for name in layer.split("|")] for layer in layers]


def reason(package: str, room: str) -> str:
    """Return the first sentence of a room's or a file's docstring."""
    folder = ROOT / package / room
    file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def table() -> str:
    """Return the rooms of `tasks` and `tlora` as a table in Markdown, highest floor first."""
    rows = ["| room | what it is for |", "|---|---|"]
    for package in PACKAGES[2:]:
        for room in (room for floor in floors(package) for room in floor):
            mark = "/" if (ROOT / package / room).is_dir() else ".py"
            rows.append(f"| `{package}/{room}{mark}` | {reason(package, room)} |")
    return "\n".join(rows) + "\n"


def picture() -> str:
    """Return the house as an SVG: a block per package, a row per floor; imports go down only."""
    rows, y = [], 10
    for package in PACKAGES:
        about = "" if floors(package) else f": a file for each {'tab' if package == 'studio' else 'flow'} and each part of one"
        rows.append(f'<text x="10" y="{y + 22}" class="title">{package}/{about}</text>')
        y += TITLE
        for floor in floors(package):
            for line in _lines(package, floor):
                rows += _row(package, line, y)
                y += FLOOR
        y += 14
    style = (
        "text{font:13px sans-serif;fill:#222}.title{font:bold 17px sans-serif}"
        ".room{fill:#f4d9c6;stroke:#a0522d}.file{fill:#eef1f4;stroke:#7a8794}"
        "@media(prefers-color-scheme:dark){.title{fill:#eee}}"
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {y}" width="{WIDE}" height="{y}"><style>{style}</style>'
    return "\n".join([head, *rows, "</svg>"]) + "\n"


def _label(package: str, room: str) -> str:
    return f"{room}/" if (ROOT / package / room).is_dir() else f"{room}.py"


def _width(label: str) -> int:
    return 8 * len(label) + 22


def _lines(package: str, floor: list[str]) -> Iterator[list[str]]:
    """Yield a floor's rooms in as many lines as the picture is wide enough for."""
    line: list[str] = []
    for room in floor:
        if sum(_width(_label(package, each)) + 10 for each in [*line, room]) > WIDE - 20:
            yield line
            line = []
        line.append(room)
    yield line


def _row(package: str, line: list[str], y: int) -> Iterator[str]:
    x = 10
    for room in line:
        label = _label(package, room)
        kind = "room" if label.endswith("/") else "file"
        title = html.escape(reason(package, room))
        yield f'<g><title>{title}</title><rect x="{x}" y="{y}" width="{_width(label)}" height="{BOX}" rx="5" class="{kind}"/>'
        yield f'<text x="{x + 11}" y="{y + 20}">{label}</text></g>'
        x += _width(label) + 10


def count() -> str:
    """Return how many files, rooms, arrows between rooms, and pairs of rooms that import each other there are."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    said = []
    for package in PACKAGES:
        rooms = sorted(graph.find_children(package))
        arrows = {
            (one, other)
            for one, other in permutations(rooms, 2)
            if graph.direct_import_exists(importer=one, imported=other, as_packages=True)
        }
        circles = sum((other, one) in arrows for one, other in arrows) // 2
        files = len(list((ROOT / package).rglob("*.py")))
        said.append(f"{package}: {files} files, {len(rooms)} rooms, {len(arrows)} arrows between them, {circles} circles")
    return "\n".join(said)


def page(text: str) -> str:
    """Return the page with its table of rooms made anew."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}{table()}{END}{rest.split(END)[1]}"


def main() -> None:
    """Write picture and table, or count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", action="store_true", help="print the numbers of the house and write nothing")
    if parser.parse_args().count:
        print(count())
        return
    PICTURE.write_text(picture(), encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
