"""Pictures side by side: a strip for each prompt, a column for each way of drawing it, and any of them large at a click.

The first column is what the others are compared with: it stays in sight while the strip scrolls, and stands beside whatever is
enlarged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.pages.page import escape

_ALL = "all"


@dataclass(frozen=True)
class Gallery:
    """What is shown.

    Args:
        name: Tells galleries of one page apart: letters, digits and hyphens.
        columns: Column -> for each prompt, a picture per seed.
        labels: Column -> what stands below it; else its name does.
        prompts: One per row.
        seeds: One per picture of a row.
        chosen: The column that is marked.
    """

    name: str
    columns: Mapping[str, Sequence[Sequence[Path]]]
    labels: Mapping[str, str]
    prompts: Sequence[str]
    seeds: Sequence[int]
    chosen: str | None = None


def render_gallery(gallery: Gallery, uris: Mapping[Path, str], exact: bool) -> str:
    """Return the gallery as HTML.

    Args:
        gallery: What is shown.
        uris: Where each picture is.
        exact: Whether pictures are shown pixel by pixel, unsmoothed, because they are tiny.
    """
    strips = "".join(_strip(gallery, uris, p) for p in range(len(gallery.prompts)))
    kind = "gallery exact" if exact else "gallery"
    return f'<div class="{kind}">\n{_seeds(gallery)}<div class="wide"><div class="strips">\n{strips}</div></div>\n</div>'


def _seeds(gallery: Gallery) -> str:
    """Return the choice of a seed, which is the same one for every picture of the gallery."""
    values = [(str(i), str(seed)) for i, seed in enumerate(gallery.seeds)]
    values += [(_ALL, "all")] if len(values) > 1 else []
    choices = "".join(
        f'<label><input type="radio" name="seed-{gallery.name}" value="{value}"{" checked" * (value == "0")}>{text}</label>'
        for value, text in values
    )
    hint = "Click a picture to enlarge it beside its neighbour; then arrow keys move, S changes the seed, Escape closes."
    return f'<div class="controls"><fieldset><legend>Seed</legend>{choices}</fieldset><p>{hint}</p></div>\n'


def _strip(gallery: Gallery, uris: Mapping[Path, str], prompt: int) -> str:
    figures = "".join(_figure(gallery, uris, prompt, c, name) for c, name in enumerate(gallery.columns))
    return f'<div class="strip"><h3>{escape(gallery.prompts[prompt])}</h3><div class="row">\n{figures}</div></div>\n'


def _figure(gallery: Gallery, uris: Mapping[Path, str], prompt: int, column: int, name: str) -> str:
    label = gallery.labels.get(name, name)
    tiles = "".join(
        _tile(f"{label}, seed {seed}: {gallery.prompts[prompt]}", (prompt, column, s), uris[file])
        for s, (seed, file) in enumerate(zip(gallery.seeds, gallery.columns[name][prompt], strict=True))
    )
    kind = " first" * (column == 0) + " chosen" * (name == gallery.chosen)
    return f'<figure class="column{kind}"><div class="tiles">{tiles}</div><figcaption>{escape(label)}</figcaption></figure>\n'


def _tile(alt: str, cell: tuple[int, int, int], uri: str) -> str:
    row, column, seed = cell
    hidden = "" if seed == 0 else " hidden"
    return (
        f'<button type="button" class="tile" data-cell="{row},{column},{seed}" title="Enlarge"{hidden}>'
        f'<img alt="{escape(alt)}" src="{uri}" decoding="async"></button>'
    )
