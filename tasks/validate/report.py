"""The data report: one HTML file with sizes, shapes, captions, problems and a contact sheet, that needs nothing beside it."""

import base64
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import log

from tasks.pages.page import Section, escape, render_page, table
from tasks.validate.findings import Finding, count_severity
from tasks.validate.inspection import Inspection
from tlora.metadata.concept import Concept
from tlora.pictures.views import ViewSettings, views_of

_MOST_PICTURES = 300  # on the contact sheet, 2 MB of thumbnails
_MOST_ROWS = 1000
_SHAPES = ((1, 2), (9, 16), (2, 3), (3, 4), (4, 5), (1, 1), (5, 4), (4, 3), (3, 2), (16, 9), (2, 1))
_SIDES = (64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class DataReport:
    """What the report is about.

    Args:
        concept: What the pictures are of.
        inspections: What was seen of each.
        held_out: Names held out.
        views: How training sees them.
        multiple: Sides of what training sees are multiples of this many pixels; None where the base model does not say.
    """

    concept: Concept
    inspections: Sequence[Inspection]
    held_out: set[str]
    views: ViewSettings
    multiple: int | None

    @property
    def readable(self) -> list[Inspection]:
        """Those that could be decoded."""
        return [seen for seen in self.inspections if not seen.look.refused]


def render_report(report: DataReport, findings: Sequence[Finding], thumbnail: Callable[[str], bytes]) -> str:
    """Return the report as one HTML page.

    Args:
        report: What it is about.
        findings: What was found, sorted.
        thumbnail: By digest of the picture, a JPEG, or no bytes; asked for only where it is shown.
    """
    sections = [
        Section("problems", "Problems", _problems(findings)),
        Section("pictures", "Pictures", *_contact_sheet(report, findings, thumbnail)),
        Section("buckets", "What training sees", _buckets(report)),
        Section("shapes", "Shapes", _bars("width to height", (shape_of(*_size(seen)) for seen in report.readable))),
        Section("sizes", "Sizes", _bars("shorter side, pixels", (_size_class(min(_size(seen))) for seen in report.readable))),
        Section("captions", "Captions", _captions(report)),
    ]
    return render_page(f"Data of {report.concept.name}", _opening(report, findings), sections)


def shape_of(width: int, height: int) -> str:
    """Return the nearest common aspect ratio.

    Example:
        >>> shape_of(1600, 910)
        '16:9'
    """
    across, down = min(_SHAPES, key=lambda shape: abs(log(shape[0] / shape[1]) - log(width / height)))
    return f"{across}:{down}"


def _opening(report: DataReport, findings: Sequence[Finding]) -> str:
    errors, warnings = count_severity(findings, "error"), count_severity(findings, "warning")
    verdict = f"{_count(errors, 'error')} to put right before anything is trained" if errors else "Nothing stops training"
    trigger = (
        f"Trigger word: <code>{escape(report.concept.trigger)}</code>. <code>make fix</code> puts right what needs no judgement."
    )
    numbers = (
        (len(report.readable) - len(report.held_out), "trained on"),
        (len(report.held_out), "held out"),
        (len(report.inspections) - len(report.readable), "not readable"),
        (errors, "errors"),
        (warnings, "warnings"),
    )
    boxes = "".join(f'<div class="number"><b>{number}</b><span>{what}</span></div>' for number, what in numbers)
    kind = "verdict none" if errors else "verdict"
    return f'<div class="{kind}"><strong>{verdict}</strong><p>{trigger}</p></div><div class="numbers">{boxes}</div>'


def _problems(findings: Sequence[Finding]) -> str:
    if not findings:
        return "<p>None was found.</p>"
    rows = [
        (escape(f.file), f'<span class="{f.severity}">{f.severity}</span>', escape(f.kind), escape(f.reason), escape(f.remedy))
        for f in findings[:_MOST_ROWS]
    ]
    left = f"<p>{len(findings) - _MOST_ROWS} more are in findings.json.</p>" if len(findings) > _MOST_ROWS else ""
    return table(("file", "", "kind", "what is wrong", "what to do"), rows) + left


def _buckets(report: DataReport) -> str:
    if report.multiple is None:
        return "<p>The base model is not on this machine, so the sizes that it takes are not known.</p>"
    views = [views_of(_size(seen), report.views, report.multiple)[0] for seen in report.readable]
    how = "cut to a square" if report.views.center_crop else "in buckets that keep their shape"
    return f"<p>Scaled and {how}.</p>" + _bars("pixels", (f"{view.width} x {view.height}" for view in views))


def _bars(what: str, values: Iterable[str]) -> str:
    counts = Counter(values)
    most = max(counts.values(), default=1)
    rows = [
        (escape(value), str(n), f'<div class="bar" style="width:{240 * n // most}px"></div>')
        for value, n in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    return table((what, "pictures", ""), rows)


def _captions(report: DataReport) -> str:
    counts = Counter(seen.caption or "" for seen in report.inspections)
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    rows = [(str(count), escape(caption) or "<i>none</i>") for caption, count in ordered[:_MOST_ROWS]]
    return f"<p>{len(counts)} distinct.</p>" + table(("pictures", "caption"), rows)


def _contact_sheet(report: DataReport, findings: Sequence[Finding], thumbnail: Callable[[str], bytes]) -> tuple[str, str]:
    problems: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        problems[finding.file].append(finding)
    ordered = sorted(report.inspections, key=lambda seen: (seen.picture not in problems, seen.picture))
    note = f"Those with problems first; {_MOST_PICTURES} of {len(ordered)} are shown." if len(ordered) > _MOST_PICTURES else ""
    figures = [
        _figure(seen, seen.picture in report.held_out, problems[seen.picture], thumbnail(seen.sha256))
        for seen in ordered[:_MOST_PICTURES]
    ]
    return f'<div class="sheet">{"".join(figures)}</div>', f"Framed: held out. {note}"


def _figure(seen: Inspection, held_out: bool, problems: Sequence[Finding], thumbnail: bytes) -> str:
    name = escape(seen.picture)
    source = f"data:image/jpeg;base64,{base64.b64encode(thumbnail).decode()}"
    drawn = f'<img alt="{name}" src="{source}">' if thumbnail else '<div class="missing"></div>'
    kinds = " ".join(f'<span class="{p.severity}">{escape(p.kind)}</span>' for p in problems)
    size = f"{seen.look.width} x {seen.look.height}" if not seen.look.refused else "not readable"
    text = f"<b>{name}</b><br>{size}<br>{escape(seen.caption or '')} {kinds}"
    return f"<figure{' class=held' if held_out else ''}>{drawn}<figcaption>{text}</figcaption></figure>"


def _size(seen: Inspection) -> tuple[int, int]:
    return seen.look.width, seen.look.height


def _size_class(side: int) -> str:
    return next((f"below {limit}" for limit in _SIDES if side < limit), f"{_SIDES[-1]} and more")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
