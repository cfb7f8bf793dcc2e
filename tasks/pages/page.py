"""The frame of every page: head, style, headings, and the script that enlarges pictures.

Names, prompts and captions are other people's text: whatever is not made here goes through `escape`.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).parent
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"  # no network, whatever is in it
)


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Args:
        anchor: What links lead to.
        title: Plain text.
        body: HTML.
        lead: A sentence below the title, HTML.
    """

    anchor: str
    title: str
    body: str
    lead: str = ""


def escape(text: object) -> str:
    """Return text that shows as itself, also inside an attribute."""
    return html.escape(str(text))


def render_page(title: str, opening: str, sections: Sequence[Section]) -> str:
    """Return a whole page.

    Args:
        title: Plain text.
        opening: HTML below the title: what a reader who reads nothing else must have read.
        sections: The rest.
    """
    links = "".join(f'<a href="#{section.anchor}">{escape(section.title)}</a>' for section in sections)
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{escape(title)}</h1>\n{opening}\n<nav>{links}</nav>\n</header>\n<main>\n"
        + "".join(_render_section(section) for section in sections)
        + f"</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], marked: Sequence[int] = ()) -> str:
    """Return a table whose first column names the rows; it scrolls sideways where it is wider than the page.

    Args:
        head: HTML of the column heads.
        rows: HTML of the cells.
        marked: Rows that stand out.
    """
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = []
    for i, (name, *cells) in enumerate(rows):
        kind = ' class="marked"' if i in marked else ""
        values = "".join(f"<td>{cell}</td>" for cell in cells)
        lines.append(f'<tr{kind}><th scope="row">{name}</th>{values}</tr>\n')
    body = "".join(lines)
    return f'<div class="wide" tabindex="0"><table><thead><tr>{top}</tr></thead><tbody>\n{body}</tbody></table></div>'


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Return a list of names and what they stand for.

    Args:
        pairs: Plain name, HTML; those without HTML are left out.
    """
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in pairs if value) + "</dl>"


def _render_section(section: Section) -> str:
    lead = f'<p class="lead">{section.lead}</p>\n' if section.lead else ""
    return f'<section id="{section.anchor}">\n<h2>{escape(section.title)}</h2>\n{lead}{section.body}\n</section>\n'
