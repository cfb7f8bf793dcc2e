"""The data report: one HTML file with sizes, shapes, captions, problems and a contact sheet, that needs nothing beside it."""

import base64
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import log

from tasks.pages.page import render_page
from tasks.validate.findings import Finding, count_severity
from tasks.validate.inspection import Inspection
from tlora.metadata.concept import Concept
from tlora.pictures.views import Box, ViewSettings, views_of

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
    readable, crops = report.readable, _crops(report)
    values = {
        "title": f"Data of {report.concept.name}",
        "counts": {severity: count_severity(findings, severity) for severity in ("error", "warning")},
        "trigger": report.concept.trigger,
        "trained": len(readable) - len(report.held_out),
        "held_out": len(report.held_out),
        "unreadable": len(report.inspections) - len(readable),
        "total": len(report.inspections),
        "findings": findings,
        "most_rows": _MOST_ROWS,
        "sheet": list(_contact_sheet(report, findings, thumbnail)),
        "buckets": _buckets(report),
        "center_crop": report.views.center_crop,
        "views": _count(str(1 + len(boxes)) for boxes in crops.values()),
        "crops": crops,
        "shapes": _count(shape_of(*_size(seen)) for seen in readable),
        "sizes": _count(_size_class(min(_size(seen))) for seen in readable),
        "captions": _count(seen.caption or "" for seen in report.inspections),
    }
    return render_page("validate/report.html", values)


def shape_of(width: int, height: int) -> str:
    """Return the nearest common aspect ratio.

    Example:
        >>> shape_of(1600, 910)
        '16:9'
    """
    across, down = min(_SHAPES, key=lambda shape: abs(log(shape[0] / shape[1]) - log(width / height)))
    return f"{across}:{down}"


def _buckets(report: DataReport) -> list[tuple[str, int]] | None:
    """Return how many pictures training sees at which size; None where the base model does not say."""
    if report.multiple is None:
        return None
    views = [views_of(_size(seen), report.views, report.multiple)[0] for seen in report.readable]
    return _count(f"{view.width} x {view.height}" for view in views)


def _crops(report: DataReport) -> dict[str, list[Box]]:
    """Return the crops that training sees of each picture besides the whole; empty where there are to be none."""
    if report.multiple is None or report.views.views_per_picture == 1:
        return {}
    plain = replace(report.views, random_flip=False)
    trained = (seen for seen in report.readable if seen.picture not in report.held_out)
    views = {seen.picture: views_of(_size(seen), plain, report.multiple, seen.sha256) for seen in trained}
    return {picture: [view.crop for view in some if view.crop] for picture, some in views.items()}


def _count(values: Iterable[str]) -> list[tuple[str, int]]:
    """Return each value with how often there is it, the most frequent first."""
    return sorted(Counter(values).items(), key=lambda pair: (-pair[1], pair[0]))


def _contact_sheet(
    report: DataReport, findings: Sequence[Finding], thumbnail: Callable[[str], bytes]
) -> Iterator[tuple[Inspection, bool, list[Finding], str]]:
    """Yield pictures, those with problems first: whether it is held out, what is wrong with it, its thumbnail in base64."""
    problems: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        problems[finding.file].append(finding)
    ordered = sorted(report.inspections, key=lambda seen: (seen.picture not in problems, seen.picture))
    for seen in ordered[:_MOST_PICTURES]:
        small = base64.b64encode(thumbnail(seen.sha256)).decode()
        yield seen, seen.picture in report.held_out, problems[seen.picture], small


def _size(seen: Inspection) -> tuple[int, int]:
    return seen.look.width, seen.look.height


def _size_class(side: int) -> str:
    return next((f"below {limit}" for limit in _SIDES if side < limit), f"{_SIDES[-1]} and more")
