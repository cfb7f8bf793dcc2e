"""`tlora inspect` says what a file holds without a model; files of every released format stay readable."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.tiny_flux import predict, tiny_inputs, tiny_transformer
from tests.tlora.adapted import CFG, MASKS, ORTHO, adapted, read, saved
from tlora.checkpoint import attach_adapter
from tlora.cli import main
from tlora.exchange.inspect import effective_rank, report
from tlora.metadata.adapter import FORMAT_VERSION
from tlora.metadata.config import TLoRAConfig

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
@pytest.mark.parametrize(("name", "cfg"), [("lora", CFG), ("ortho_lora", ORTHO)])
def test_an_adapter_of_every_released_format_is_stillread(version: int, name: str, cfg: TLoRAConfig) -> None:
    transformer = tiny_transformer()
    metadata = attach_adapter(transformer, FIXTURES / f"format_{version}" / f"{name}.safetensors")
    assert (metadata.config, metadata.target_modules, metadata.trigger, metadata.step) == (cfg, ("to_q",), "matbrk", 3)
    got = predict(transformer, tiny_inputs(4), {"sigma_mask": MASKS})
    expected = predict(adapted(cfg, ("to_q",)), tiny_inputs(4), {"sigma_mask": MASKS})
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)  # the SVD's last bits are the machine's


def test_a_newer_format_is_refused_with_the_release_that_reads_it(tmp_path: Path) -> None:
    tensors, metadata = read(FIXTURES / "format_1" / "lora.safetensors")
    for changes, needed in (({"readable_since": "3.1.0"}, "flux-tlora 3.1.0"), ({}, "flux-tlora a newer release")):
        strings = {k: v for k, v in metadata.items() if k != "readable_since"} | {"format_version": "9"} | changes
        save_file(tensors, tmp_path / "new.safetensors", strings)
        with pytest.raises(SystemExit, match=f"written in format 9, this program reads up to 1: it needs {needed}"):
            main(["inspect", str(tmp_path / "new.safetensors")])


def test_the_report_of_our_own_file(capsys: pytest.CaptureFixture[str]) -> None:
    main(["inspect", str(FIXTURES / "format_1" / "lora.safetensors")])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for expected in (
        "format T-LoRA adapter, version 1, readable since 0.1.0",
        "rank 4",
        "schedule 1 at timestep 1000 to 4 at 0, exponent 1",
        "base tests/tiny_flux.py",
        "layers 4",
        "layer in out ranks norm effective rank",
    ):
        assert expected in lines
    rows = [line.split() for line in lines if "attn.to_q" in line]
    layer = adapted(CFG, ("to_q",)).get_submodule("transformer_blocks.0.attn.to_q")
    up, down = layer.factors()
    (row,) = [row for row in rows if row[0] == "transformer_blocks.0.attn.to_q"]
    assert row[1:4] == ["32", "32", "4"]
    assert float(row[4]) == pytest.approx(float((up @ down).norm()), rel=1e-3)
    assert len(rows) == 4


@pytest.mark.parametrize("dialect", ["diffusers", "kohya"])
def test_the_report_of_an_exported_file(tmp_path: Path, dialect: str) -> None:
    _, adapter = saved(tmp_path / "adapter", CFG, ("to_q", "to_k"))
    main(["export", str(adapter), "--format", dialect, "--out", str(tmp_path / "out.safetensors")])
    lines = [" ".join(line.split()) for line in report(tmp_path / "out.safetensors")]
    assert f"format {dialect}" in lines
    assert "tlora_mask none: full rank at every step" in lines
    ours = [line for line in report(adapter) if "attn" in line]
    assert [line.split() for line in lines if "attn.to" in line] == [line.split() for line in ours]


@pytest.mark.parametrize(
    ("values", "expected"), [((1.0, 1, 1, 1), 4.0), ((1.0, 0, 0, 0), 1.0), ((0.0,) * 4, 0.0), ((3.0, 3.0, 0, 0), 2.0)]
)
def test_effective_rank_counts_singular_values_by_their_weight(values: tuple[float, ...], expected: float) -> None:
    up, down = torch.linalg.qr(torch.randn(9, 4)).Q, torch.linalg.qr(torch.randn(7, 4)).Q.T
    assert effective_rank((up * torch.tensor(values), down)) == pytest.approx(expected, abs=1e-4)
