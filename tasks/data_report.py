"""The data report: one HTML file with sizes, shapes, captions, problems and a contact sheet, that needs nothing beside it.

File names and captions are other people's text, so all of it is escaped.
"""

import base64
import html
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import log

from tasks.findings import Finding, summarise
from tasks.inspection import THUMBNAIL_SIDE, Inspection
from tlora.concept import Concept

_MOST_PICTURES = 300  # on the contact sheet, 1 MB of thumbnails
_MOST_ROWS = 1000
_SHAPES = ((1, 2), (9, 16), (2, 3), (3, 4), (4, 5), (1, 1), (5, 4), (4, 3), (3, 2), (16, 9), (2, 1))
_STYLE = f"""
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; }} td, th {{ text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; }}
.error {{ color: #c62828; font-weight: 600; }} .warning {{ color: #b26a00; font-weight: 600; }}
.bar {{ background: #6b8fb3; height: .8rem; }}
.sheet {{ display: grid; grid-template-columns: repeat(auto-fill, minmax({THUMBNAIL_SIDE + 40}px, 1fr)); gap: 1rem; }}
.sheet figure {{ margin: 0; }} .sheet figcaption {{ font-size: 13px; overflow-wrap: anywhere; }}
.missing {{ width: {THUMBNAIL_SIDE}px; height: {THUMBNAIL_SIDE}px; border: 1px dashed #999; }}
.held {{ outline: 3px solid #6b8fb3; outline-offset: 2px; }}
"""


@dataclass(frozen=True)
class DataReport:
    """What the report is about: the concept, what was seen of each picture, and the names held out."""

    concept: Concept
    inspections: Sequence[Inspection]
    held_out: set[str]


def render_report(report: DataReport, findings: Sequence[Finding], thumbnail: Callable[[str], bytes]) -> str:
    """Return the report as one HTML page.

    Args:
        report: What it is about.
        findings: What was found, sorted.
        thumbnail: By digest of the picture, a JPEG, or no bytes; asked for only where it is shown.
    """
    name = html.escape(report.concept.name)
    sections = [
        _summary(report, findings),
        _problems(findings),
        _histogram("Shapes, as width to height", (shape_of(s.look.width, s.look.height) for s in _readable(report))),
        _histogram("Shorter side in pixels", (_size_class(min(s.look.width, s.look.height)) for s in _readable(report))),
        _captions(report),
        _contact_sheet(report, findings, thumbnail),
    ]
    head = f'<meta charset="utf-8"><title>Data of {name}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(sections) + "\n</body></html>\n"


def shape_of(width: int, height: int) -> str:
    """Return the nearest common aspect ratio.

    Example:
        >>> shape_of(1600, 910)
        '16:9'
    """
    across, down = min(_SHAPES, key=lambda shape: abs(log(shape[0] / shape[1]) - log(width / height)))
    return f"{across}:{down}"


def _readable(report: DataReport) -> list[Inspection]:
    return [seen for seen in report.inspections if not seen.look.refused]


def _summary(report: DataReport, findings: Sequence[Finding]) -> str:
    total, held = len(_readable(report)), len(report.held_out)
    counts = f"{total} readable pictures, {total - held} to train on and {held} held out"
    trigger = html.escape(report.concept.trigger)
    title = f"<h1>Data of {html.escape(report.concept.name)}</h1>"
    return f"{title}<p>{counts}. Trigger word: <b>{trigger}</b>. Found: {summarise(findings)}.</p>"


def _problems(findings: Sequence[Finding]) -> str:
    if not findings:
        return "<h2>Problems</h2><p>None was found.</p>"
    rows = [
        f'<tr><td class="{f.severity}">{f.severity}</td><td>{html.escape(f.kind)}</td><td>{html.escape(f.file)}</td>'
        f"<td>{html.escape(f.reason)}</td><td>{html.escape(f.remedy)}</td></tr>"
        for f in findings[:_MOST_ROWS]
    ]
    left = f"<p>{len(findings) - _MOST_ROWS} more are in findings.json.</p>" if len(findings) > _MOST_ROWS else ""
    head = "<tr><th></th><th>kind</th><th>file</th><th>what is wrong</th><th>what to do</th></tr>"
    return f"<h2>Problems</h2><table>{head}{''.join(rows)}</table>{left}"


def _histogram(title: str, values: Iterable[str]) -> str:
    counts = Counter(values)
    most = max(counts.values(), default=1)
    rows = [
        f'<tr><td>{html.escape(value)}</td><td>{n}</td><td><div class="bar" style="width:{240 * n // most}px"></div></td></tr>'
        for value, n in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    return f"<h2>{title}</h2><table>{''.join(rows)}</table>"


def _size_class(side: int) -> str:
    limits = (64, 128, 256, 512, 1024, 2048, 4096)
    return next((f"below {limit}" for limit in limits if side < limit), f"{limits[-1]} and more")


def _captions(report: DataReport) -> str:
    pictures: dict[str, int] = Counter(seen.caption or "" for seen in report.inspections)
    rows = [
        f"<tr><td>{count}</td><td>{html.escape(caption) or '<i>none</i>'}</td></tr>"
        for caption, count in sorted(pictures.items(), key=lambda pair: (-pair[1], pair[0]))[:_MOST_ROWS]
    ]
    return f"<h2>Captions</h2><p>{len(pictures)} distinct.</p><table>{''.join(rows)}</table>"


def _contact_sheet(report: DataReport, findings: Sequence[Finding], thumbnail: Callable[[str], bytes]) -> str:
    problems: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        problems[finding.file].append(finding)
    ordered = sorted(report.inspections, key=lambda seen: (seen.picture not in problems, seen.picture))
    note = f"Those with problems first; {_MOST_PICTURES} of {len(ordered)} are shown." if len(ordered) > _MOST_PICTURES else ""
    figures = [
        _figure(seen, seen.picture in report.held_out, problems[seen.picture], thumbnail(seen.sha256))
        for seen in ordered[:_MOST_PICTURES]
    ]
    return f'<h2>Pictures</h2><p>Framed: held out. {note}</p><div class="sheet">{"".join(figures)}</div>'


def _figure(seen: Inspection, held_out: bool, problems: Sequence[Finding], thumbnail: bytes) -> str:
    name = html.escape(seen.picture)
    frame = ' class="held"' if held_out else ""
    source = f"data:image/jpeg;base64,{base64.b64encode(thumbnail).decode()}"
    drawn = f'<img{frame} alt="{name}" src="{source}">' if thumbnail else '<div class="missing"></div>'
    kinds = " ".join(f'<span class="{p.severity}">{html.escape(p.kind)}</span>' for p in problems)
    size = f"{seen.look.width} x {seen.look.height}" if not seen.look.refused else "not readable"
    return (
        f"<figure>{drawn}<figcaption><b>{name}</b><br>{size}<br>{html.escape(seen.caption or '')} {kinds}</figcaption></figure>"
    )
