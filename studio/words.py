"""What the page shows of texts and pictures: HTML in which nothing of a user's is markup, and pictures that need no address.

A picture stands in the page itself (`data:`), so that no file of this machine can be asked for by its path.
"""

import base64
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from tlora.errors import TloraError
from tlora.runtime.remedies import PIPELINE, explain

LARGEST = 1024  # pixels on a side of a picture in the page


def escape(text: object) -> str:
    """Return a text as HTML shows it; `$` too, which starts a placeholder in Gradio's templates."""
    return html.escape(str(text)).replace("$", "&#36;").replace("`", "&#96;")


def status(lines: str | Sequence[str], *, wrong: bool = False) -> str:
    """Return lines that a screen reader speaks when they change."""
    shown = [lines] if isinstance(lines, str) else lines
    kind = ' class="wrong"' if wrong else ""
    return f'<div role="status"{kind}>' + "".join(f"<p>{escape(line)}</p>" for line in shown if line) + "</div>"


def attempt(action: Callable[[], str]) -> str:
    """Return what an action shows, or in one line why it could not be done."""
    try:
        return action()
    except (TloraError, OSError, ValueError) as error:
        return status(explained(error), wrong=True)


def explained(error: Exception) -> str:
    """Return an error in a line, with what to do where that is known."""
    return explain(error, PIPELINE) if isinstance(error, TloraError) else str(error)


def picture(image: Image.Image | Path, words: str, *, width: int = LARGEST) -> str:
    """Return a picture as it stands in the page.

    Args:
        image: In memory, or a PNG, which is then shown with all that it says of itself.
        words: What it shows, for those who do not see it.
        width: Pixels that it takes at most.
    """
    if isinstance(image, Path):
        data = image.read_bytes()
    else:
        shown = image.convert("RGB")
        shown.thumbnail((LARGEST, LARGEST))
        file = io.BytesIO()
        shown.save(file, "PNG")
        data = file.getvalue()
    address = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return f'<img src="{address}" alt="{escape(words)}" style="width:100%;max-width:{width}px">'


def thumbnail(file: Path, words: str, side: int = 128) -> str:
    """Return a small picture of a file of any kind that training reads; its name where it cannot be read."""
    from tlora.pictures.decode import decode_picture

    try:
        opened = decode_picture(file).convert("RGB")
    except (TloraError, OSError):
        return f"<p>{escape(file.name)} cannot be read</p>"
    opened.thumbnail((side, side))
    return picture(opened, words, width=side)


def curve(points: Sequence[tuple[int, float]], words: str) -> str:
    """Return a line through points as an SVG, scaled to fill it."""
    if len(points) < 2:
        return ""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    wide, high = max(1, xs[-1] - xs[0]), max(ys) - min(ys) or 1.0
    path = " ".join(f"{400 * (x - xs[0]) / wide:.1f},{4 + 92 * (max(ys) - y) / high:.1f}" for x, y in points)
    return (
        f'<svg viewBox="0 0 400 100" role="img" aria-label="{escape(words)}" class="curve">'
        f'<polyline points="{path}" fill="none" stroke="currentColor" stroke-width="1.5"/></svg>'
    )


def bars(counts: Sequence[int], words: str) -> str:
    """Return a bar for each count as an SVG."""
    if not counts:
        return ""
    width, most = 400 / len(counts), max(counts)
    drawn = "".join(
        f'<rect x="{place * width:.1f}" y="{40 - high:.1f}" width="{width * 0.8:.1f}" height="{high:.1f}"/>'
        for place, high in enumerate(38 * count / most for count in counts)
    )
    return f'<svg viewBox="0 0 400 40" role="img" aria-label="{escape(words)}" class="curve" fill="currentColor">{drawn}</svg>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; cells are HTML already."""
    if not rows:
        return ""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    whole = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide" tabindex="0" role="region" aria-label="{escape(", ".join(head))}">{whole}</div>'


def link(address: str, words: str) -> str:
    """Return a link that opens beside the page; the words alone where there is no address."""
    if not address.startswith(("http://", "https://")):
        return escape(words)
    return f'<a href="{escape(address)}" target="_blank" rel="noopener noreferrer">{escape(words)}</a>'
