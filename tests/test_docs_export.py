"""What docs/export.md tells people to type and to run does run, in its order."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

from tlora.checkpoint import save_tlora_weights
from tlora.cli import main
from tlora.flux.model import load_transformer
from tlora.flux.spec import ModelSpec
from tlora.inject import inject_tlora_into_transformer, tlora_parameters
from tlora.metadata.adapter import WEIGHTS_FILE, AdapterMetadata
from tlora.metadata.config import TLoRAConfig

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_every_snippet_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # and with it, sys.path is put back
    Path("models").symlink_to(ROOT / "models")
    an_adapter(Path("artifacts/recommended"))
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    ran: dict[str, int] = {"sh": 0, "python": 0}
    for language, code in re.findall(r"```(\w+)\n(.*?)```", page, flags=re.DOTALL):
        ran[language] += 1
        if language == "python":
            Path("snippet.py").write_text(code, encoding="utf-8")
            picture = runpy.run_path("snippet.py")["picture"]
            assert isinstance(picture, Image.Image)
            assert picture.size == (64, 64)
            continue
        for line in code.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "tlora"
            main(arguments)
    assert ran == {"sh": 2, "python": 2}


def an_adapter(folder: Path) -> None:
    """Save an adapter for the pocket, of small random updates."""
    transformer = load_transformer(ModelSpec("models/pocket-flux", dtype="float32", device="cpu"))
    cfg, targets = TLoRAConfig(rank=4, alpha=4.0, min_rank=1), ("to_q", "to_out.0")
    inject_tlora_into_transformer(transformer, targets, cfg)
    with torch.no_grad():
        for parameter in tlora_parameters(transformer):
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    save_tlora_weights(transformer, folder / WEIGHTS_FILE, AdapterMetadata(cfg, targets, base="models/pocket-flux"))
