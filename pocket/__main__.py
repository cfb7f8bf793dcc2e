"""`python -m pocket`: build the pocket models; run it again to continue."""

import argparse
from pathlib import Path

from pocket.build import FULL, MINIATURE, build
from pocket.report import model_card, write_sheet


def main() -> None:
    """Build, judge, and write the models, the sheet and the model card."""
    parser = argparse.ArgumentParser(prog="python -m pocket", description=__doc__)
    parser.add_argument("--size", choices=["full", "miniature"], default="full")
    parser.add_argument("--work", type=Path, default=Path(".state/pocket"), help="rendered pictures and training state")
    parser.add_argument("--models", type=Path, default=Path("models"), help="where the three models are written")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where the model card and its sheet are written")
    arguments = parser.parse_args()
    findings = build(FULL if arguments.size == "full" else MINIATURE, arguments.work, arguments.models)
    write_sheet(findings.judged, arguments.docs / "pictures" / "pocket_sheet.png")
    (arguments.docs / "pocket.md").write_text(model_card(findings, "pictures/pocket_sheet.png"))
    print(f"wrote {arguments.models}/pocket-*, {arguments.docs}/pocket.md")


if __name__ == "__main__":
    main()
