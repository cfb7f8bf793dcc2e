"""What is wrong with a user's data, as data: errors stop the pipeline, warnings are shown."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

_SHOWN_ROWS = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Args:
        severity: Errors stop, warnings do not.
        kind: A word to search for, the same in docs/data.md.
        file: File name in the data folder, or a path.
        reason: What is wrong.
        remedy: What to do about it.
    """

    severity: Literal["error", "warning"]
    kind: str
    file: str
    reason: str
    remedy: str


def sort_findings(findings: Sequence[Finding]) -> list[Finding]:
    """Return errors first, then by file and kind."""
    return sorted(findings, key=lambda f: (f.severity, f.file, f.kind, f.reason))


def count_severity(findings: Sequence[Finding], severity: str) -> int:
    """Return how many findings are of a severity."""
    return sum(finding.severity == severity for finding in findings)


def summarise(findings: Sequence[Finding]) -> str:
    """Return `2 errors, 1 warning`."""
    counts = ((count_severity(findings, word), word) for word in ("error", "warning"))
    return ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts)


def findings_to_json(findings: Sequence[Finding]) -> dict[str, object]:
    """Return findings as they stand in findings.json."""
    counts = {severity: count_severity(findings, severity) for severity in ("error", "warning")}
    return {"version": 1, "counts": counts, "findings": [asdict(finding) for finding in findings]}


def findings_to_markdown(findings: Sequence[Finding]) -> str:
    """Return findings as a Markdown table."""
    if not findings:
        return "Nothing was found wrong with the data.\n"
    lines = ["| severity | kind | file | what is wrong | what to do |", "| --- | --- | --- | --- | --- |"]
    for finding in findings:
        cells = (text.replace("|", "\\|").replace("\n", " ") for text in asdict(finding).values())
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def findings_to_text(findings: Sequence[Finding], shown: int = _SHOWN_ROWS) -> str:
    """Return findings for a terminal: one line each, then how many were left out."""
    width = max((len(finding.file) for finding in findings[:shown]), default=0)
    lines = [f"{f.severity:7}  {f.file:{width}}  {f.reason}; {f.remedy}".replace("\n", " ") for f in findings[:shown]]
    if len(findings) > shown:
        lines.append(f"... and {len(findings) - shown} more")
    return "\n".join(lines)
