"""`tlora inspect`, as people type it."""

from pathlib import Path

import pytest

from tests.tlora.commands.workplace import adapter_file
from tlora.cli import main
from tlora.metadata.config import TLoRAConfig


def test_it_says_what_a_file_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = adapter_file(tmp_path / "a.safetensors", TLoRAConfig(rank=4, min_rank=1), ("to_q",), 1)
    main(["inspect", str(file)])
    said = capsys.readouterr().out
    assert "transformer_blocks.0.attn.to_q" in said
    assert "schedule           1 at timestep 1000 to 4 at 0, exponent 1" in said
