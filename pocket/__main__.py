"""`python -m pocket`: build the pocket models; run it again to continue."""

import argparse
from pathlib import Path

import torch

from pocket import build_flux2
from pocket.build import FULL, MINIATURE, ON_A_GPU, build
from pocket.report import model_card, write_sheet


def main() -> None:
    """Build, judge, and write the models, the sheet and the model card."""
    parser = argparse.ArgumentParser(prog="python -m pocket", description=__doc__)
    parser.add_argument(
        "--base", choices=["flux1", "flux2"], default="flux1", help="flux2 takes VAE and judge of a finished flux1"
    )
    parser.add_argument("--size", choices=["full", "miniature"], default="full")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="a GPU takes more pictures and steps")
    parser.add_argument("--work", type=Path, default=Path(".state/pocket"), help="rendered pictures and training state")
    parser.add_argument("--models", type=Path, default=Path("models"), help="where the three models are written")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where the model card and its sheet are written")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU here: `make pocket` builds on the CPU")
    if arguments.device == "cuda" and arguments.base == "flux2":
        parser.error("the pocket FLUX.2 is built on the CPU")
    if arguments.base == "flux2":
        sizes = build_flux2.MINIATURE if arguments.size == "miniature" else build_flux2.FULL
        missing = [name for name in build_flux2.TAKEN if not (arguments.models / name).is_dir()]
        if missing:
            parser.error(f"{arguments.models / missing[0]} is not there: `make pull` brings it, `make pocket` builds it")
        build_flux2.build(sizes, arguments.work, arguments.models, arguments.docs)
    else:
        full = ON_A_GPU if arguments.device == "cuda" else FULL
        findings = build(MINIATURE if arguments.size == "miniature" else full, arguments.device, arguments.work, arguments.models)
        write_sheet(findings.judged, arguments.docs / "pictures" / "pocket_sheet.png")
        (arguments.docs / "pocket.md").write_text(model_card(findings, "pictures/pocket_sheet.png"))
        print(f"wrote {arguments.models}/pocket-*, {arguments.docs}/pocket.md")


if __name__ == "__main__":
    main()
