"""`python -m pocket`: build the pocket models; run it again to continue."""

import argparse
from pathlib import Path

import torch

from pocket.build import FULL, MINIATURE, ON_A_GPU, build
from pocket.report import model_card, write_sheet


def main() -> None:
    """Build, judge, and write the models, the sheet and the model card."""
    parser = argparse.ArgumentParser(prog="python -m pocket", description=__doc__)
    parser.add_argument("--size", choices=["full", "miniature"], default="full")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="a GPU takes more pictures and steps")
    parser.add_argument("--work", type=Path, default=Path(".state/pocket"), help="rendered pictures and training state")
    parser.add_argument("--models", type=Path, default=Path("models"), help="where the three models are written")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where the model card and its sheet are written")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU here: `make pocket` builds on the CPU")
    full = ON_A_GPU if arguments.device == "cuda" else FULL
    findings = build(MINIATURE if arguments.size == "miniature" else full, arguments.device, arguments.work, arguments.models)
    write_sheet(findings.judged, arguments.docs / "pictures" / "pocket_sheet.png")
    (arguments.docs / "pocket.md").write_text(model_card(findings, "pictures/pocket_sheet.png"))
    print(f"wrote {arguments.models}/pocket-*, {arguments.docs}/pocket.md")


if __name__ == "__main__":
    main()
