"""What a pull request is told: the evaluation's tables, what changed against where it would go, and the grid.

`.github/workflows/evaluate.yml` posts it; elsewhere `python -m flows.pull_request --against origin/main` writes the same two.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from flows.run_page import METRICS, metrics_report
from tasks.dvc_command import run_dvc
from tlora.errors import SettingsError, TloraError
from tlora.runtime.atomic_file import write_text

GRID = Path("artifacts/grids/grid.png")
OUT = Path("reports/pull_request")


def write_report(against: str, folder: Path) -> Path:
    """Write report.md, and beside it the grid that it shows; return the report.

    Args:
        against: The revision that metrics are compared with, as git names it.
        folder: Output folder.

    Raises:
        SettingsError: If nothing was evaluated here, or git does not know the revision.
    """
    if not (METRICS.exists() and GRID.exists()):
        raise SettingsError(f"{METRICS} and {GRID} are not both here: nothing was evaluated, run 'dvc repro evaluate'")
    tables = metrics_report(json.loads(METRICS.read_text(encoding="utf-8")))
    changes = run_dvc("metrics", "diff", "--md", against) or "Nothing."
    parts = ["# Evaluation", *tables, f"## Changed against `{against}`", changes, "## Pictures", f"![grid]({GRID.name})"]
    report = folder / "report.md"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(GRID, folder / GRID.name)
    write_text(report, "\n\n".join(parts) + "\n")
    return report


def main() -> int:
    """Run the command and return its exit status."""
    words = "Write what a pull request is told of the evaluation: report.md and grid.png."
    parser = argparse.ArgumentParser(prog="python -m flows.pull_request", description=words)
    parser.add_argument("--against", default="HEAD", help="revision that metrics are compared with, by default the last commit")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder, by default {OUT}")
    options = parser.parse_args()
    try:
        print(f"pull_request: {write_report(options.against, options.out)}")
    except (TloraError, OSError) as error:
        print(f"pull_request: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
