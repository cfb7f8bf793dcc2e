"""`tlora card`: what the hub is shown of an adapter."""

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests.tiny_flux import tiny_transformer
from tlora.checkpoint import attach_adapter, save_tlora_weights
from tlora.cli import main
from tlora.inject import inject_tlora_into_transformer
from tlora.metadata.adapter import AdapterMetadata
from tlora.metadata.config import TLoRAConfig

CONFIG = TLoRAConfig(rank=4, min_rank=1, alpha=4)
SCORES = {"step": 2, "similarity_gain": {"mean": 0.25, "low": 0.15, "high": 0.36}, "diversity_ratio": 0.5, "note": "fine"}


@pytest.fixture(autouse=True)
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluated adapter for FLUX.1-dev in the current folder."""
    monkeypatch.chdir(tmp_path)
    save_adapter("black-forest-labs/FLUX.1-dev")
    Path("reports/evaluate").mkdir(parents=True)
    base = {"step": 0, "similarity_gain": {"mean": 0.0, "low": 0.0, "high": 0.0}, "diversity_ratio": 1.0}
    Path("reports/evaluate/evaluate.json").write_text(json.dumps({"checkpoints": {"base": base, "final": SCORES}}))
    Path("artifacts/grids").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save("artifacts/grids/grid.png")


def save_adapter(base: str) -> None:
    transformer = tiny_transformer()
    inject_tlora_into_transformer(transformer, ["to_q"], CONFIG)
    about = {"base": base, "data_digest": "5a5a", "concept": "brick", "trigger": "matbrk", "step": 2}
    save_tlora_weights(transformer, Path("adapters/final/tlora_weights.safetensors"), AdapterMetadata(CONFIG, ("to_q",), **about))


def test_it_holds_what_the_hub_and_a_reader_want_to_know() -> None:
    main(["card", "adapters/final"])
    written = Path("adapters/final/README.md").read_text()
    _, front, text = written.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "base_model": "black-forest-labs/FLUX.1-dev",
        "base_model_relation": "adapter",
        "license": "other",
        "license_name": "flux-1-dev-non-commercial-license",
        "license_link": "https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["t-lora", "lora", "flux", "text-to-image"],
        "instance_prompt": "matbrk",
    }
    gain = "| Similarity gain | 0.000 (0.000 to 0.000) | 0.250 (0.150 to 0.360) | difference of cosines | Similarity to"
    assert gain in text
    assert "More is better. |\n| Diversity against the base | 1.000 | 0.500 | share of the base's | Too little" in text
    assert "note" not in text
    for part in (
        "no commercial use",
        "- base: `flux-1-dev-non-commercial-license`\n- data: nobody said\n- adapter: `flux-1-dev-non-commercial-license`",
        "![what it draws](grid.png)",
        "- data digest: `5a5a`",
        "1 at timestep 1000 to 4 at 0",
        "bands",
    ):
        assert part in text
    assert Path("adapters/final/grid.png").is_file()


REASON = "final: best similarity gain"


@pytest.mark.parametrize(
    ("recommended", "words"),
    [
        ("final", f"Recommended by the evaluation. {REASON}."),
        ("checkpoint-000001", "**Not the recommended one.** The evaluation recommends checkpoint-000001, another step"),
        (None, f"**The evaluation recommends none of its run.** {REASON}."),
    ],
)
def test_it_says_whether_the_adapter_is_the_recommended_one_and_why(recommended: str | None, words: str) -> None:
    told = json.loads(Path("reports/evaluate/evaluate.json").read_text())
    told["checkpoints"]["checkpoint-000001"] = {"step": 1}
    Path("reports/evaluate/evaluate.json").write_text(json.dumps(told | {"recommended": recommended, "reason": REASON}))
    main(["card", "adapters/final"])
    assert words in Path("adapters/final/README.md").read_text()


def test_its_snippets_are_for_the_base_and_the_size_that_it_was_evaluated_with() -> None:
    told = json.loads(Path("reports/evaluate/evaluate.json").read_text())
    drawing = {"width": 64, "height": 48, "num_inference_steps": 8, "guidance_scale": 3.5, "max_sequence_length": 77}
    Path("reports/evaluate/evaluate.json").write_text(json.dumps(told | {"setup": {"drawing": drawing}}))
    save_adapter("models/pocket-flux")
    Path("models/pocket-flux").mkdir(parents=True)
    Path("params.yaml").write_text("licence: {base: Apache-2.0, data: CC0-1.0, adapter: ''}")
    main(["card", "adapters/final"])
    text = Path("adapters/final/README.md").read_text()
    assert 'from_pretrained("models/pocket-flux", dtype=torch.float32)' in text
    assert "width=64,\n    height=48,\n    num_inference_steps=8,\n    guidance_scale=3.5,\n    max_sequence_length=77,\n" in text
    assert "license: apache-2.0\n" in text
    assert "- base: `apache-2.0`\n- data: `cc0-1.0`\n- adapter: `apache-2.0`" in text
    for foreign in ("bfloat16", "1024", "ComfyUI", "FLUX.1-dev"):
        assert foreign not in text, foreign


def test_an_output_of_the_pipeline_is_left_alone_and_published_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    Path("dvc.yaml").write_text("stages: {train: {cmd: 'true', outs: [adapters, {reports: {push: false}}]}}")
    with pytest.raises(SystemExit, match=r"adapters/final is an output of the pipeline, .*: give --outdir"):
        main(["card", "adapters/final"])
    main(["card", "adapters/final", "--outdir", "published", "--metrics", "nowhere.json"])
    assert sorted(path.name for path in Path("published").iterdir()) == ["README.md", "grid.png", "tlora_weights.safetensors"]
    assert "published/README.md (not evaluated: nothing in nowhere.json)" in capsys.readouterr().out
    assert attach_adapter(tiny_transformer(), Path("published")).trigger == "matbrk"
    with pytest.raises(SystemExit, match=r"published/README\.md: exists: move it away"):
        main(["card", "adapters/final", "--outdir", "published"])


def test_what_cannot_be_read_is_one_line() -> None:
    Path("reports/evaluate/evaluate.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"reports/evaluate/evaluate\.json: not what evaluate writes"):
        main(["card", "adapters/final"])
    assert not Path("adapters/final/README.md").exists()
    with pytest.raises(SystemExit, match="nowhere: no adapter there"):
        main(["card", "nowhere"])
