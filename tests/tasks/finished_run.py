"""The files that the other stages leave before `register` runs, as small as they can be, around a tiny FLUX."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tasks.register.stage import register
from tasks.registry.verdict import PromoteSettings
from tasks.results.album import CHECKPOINTS, write_album
from tests.tiny_flux import tiny_transformer
from tlora.checkpoint import save_tlora_weights
from tlora.flux.spec import ModelSpec
from tlora.inject import inject_tlora_into_transformer, tlora_parameters
from tlora.metadata.adapter import WEIGHTS_FILE, AdapterMetadata
from tlora.metadata.config import TLoRAConfig
from tlora.pictures.manifest import PictureItem, build_manifest, manifest_to_json
from tlora.trust.licences import LicenceSettings
from tlora.trust.settings import TrustSettings

BASE = "models/tiny-flux"
NAME = "tlora-tiny-flux-brick"
DVC_DIGEST = "0123456789abcdef0123456789abcdef.dir"
TARGETS = ("to_q", "to_v")
CHECKPOINT_NAMES = ("checkpoint-000002", "checkpoint-000004")
CONFIG = TLoRAConfig(rank=4, alpha=4.0, min_rank=1)
SETUP = {
    "drawing": {
        "width": 32,
        "height": 32,
        "num_inference_steps": 2,
        "guidance_scale": 3.5,
        "lora_scale": 1.0,
        "sigma_mask": "timestep",
        "tileable": False,
        "max_sequence_length": 16,
    },
    "prompts": ["a matbrk wall"],
    "prompts_digest": "prompts-1",
    "seeds": [0, 1],
    "evaluator": "an-evaluator@1",
    "held_out": "held-out-1",
}


@dataclass(frozen=True)
class FinishedRun:
    """A folder in which everything but `register` has run: checkpoints of steps 2 and 4, the final one a twin of the latter."""

    root: Path

    def register(
        self,
        trust: TrustSettings = TrustSettings(),  # noqa: B008  # it is frozen
        licence: LicenceSettings = LicenceSettings(),  # noqa: B008
        promote: PromoteSettings = PromoteSettings(),  # noqa: B008
    ) -> None:
        """Run the stage in this process; the working folder must be `root`."""
        self._keep_recommended()
        register(
            ModelSpec(BASE, dtype="float32", device="cpu"),
            trust,
            licence,
            promote,
            adapters=Path("adapters"),
            metrics=Path("metrics/evaluate.json"),
            grids=Path("artifacts/grids"),
            pictures=Path("artifacts/pictures"),
            recommended=Path("artifacts/recommended"),
            reports=Path("reports"),
            manifest=Path("artifacts/manifest"),
            concept=Path("concept.yaml"),
        )

    def evaluate(self, recommended: str | None, gain_low: float = 0.1, diversity_ratio: float = 0.8) -> None:
        """Write an evaluation in which every checkpoint has these scores."""
        checkpoints = {"base": _scores(0, 0.0, 1.0)} | {
            f"checkpoint-{step:06d}": _scores(step, gain_low, diversity_ratio) for step in (2, 4)
        }
        reason = f"{recommended}: by far the best" if recommended else "no checkpoint passes"
        evaluation = {"recommended": recommended, "reason": reason, "checkpoints": checkpoints, "failures": {}, "setup": SETUP}
        self._write("metrics/evaluate.json", evaluation)
        self._keep_recommended()

    def train(self, code: str = "code-1", seed: int = 1, base_revision: str = "base-1") -> None:
        """Write adapters as if trained by some code, and the report of it."""
        shutil.rmtree(self.root / "adapters", ignore_errors=True)
        transformer = tiny_transformer()
        inject_tlora_into_transformer(transformer, TARGETS, CONFIG)
        for name, step in (("checkpoint-000002", 2), ("checkpoint-000004", 4), ("final", 4)):
            source = torch.Generator().manual_seed(1000 * seed + step)
            with torch.no_grad():
                for parameter in tlora_parameters(transformer):
                    parameter.copy_(torch.randn(parameter.shape, generator=source))
            save_tlora_weights(transformer, self.root / "adapters" / name / WEIGHTS_FILE, metadata_of(step, code, base_revision))
        lines = [{"step": n, "loss": 1 / n, "learning_rate": 1e-3, "grad_norm": 0.5, "seconds": 0.25} for n in (1, 2, 3, 4)]
        log = self.root / "reports" / "train" / "log.jsonl"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("".join(json.dumps(line) + "\n" for line in lines))
        params = {"train": {"training": {"optimizer": {"learning_rate": 1e-3}}, "target_modules": list(TARGETS)}}
        record = {"git_commit": "c0ffee", "host": "kiln", "started": "2026-11-23T10:00:00+00:00", "params": params}
        self._write("reports/train/run.json", record)

    def _keep_recommended(self) -> None:
        """Copy the recommended checkpoint, as `evaluate` does."""
        found = re.search('"recommended": "(.+?)"', (self.root / "metrics/evaluate.json").read_text())
        name = found[1] if found else "none"
        if (self.root / "adapters" / name).is_dir():
            shutil.copytree(self.root / "adapters" / name, self.root / "artifacts/recommended", dirs_exist_ok=True)

    def hold_data(self, train: Mapping[str, str]) -> None:
        """Write the manifests of these captioned pictures, named by a digit, and of the held-out `brick_2.png`."""
        for file, captions in (("train", train), ("held_out", {"brick_2.png": "a matbrk wall"})):
            items = [PictureItem(name, name[6] * 64, 32, 32, caption) for name, caption in captions.items()]
            self._write(f"artifacts/manifest/{file}.json", manifest_to_json(build_manifest(items)))

    def _write(self, name: str, value: Any) -> None:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value))


def lay_out(root: Path, base: Path) -> FinishedRun:
    """Fill a folder; `base` is a saved tiny pipeline to copy."""
    run = FinishedRun(root)
    shutil.copytree(base, root / BASE)
    run.train()
    run.evaluate("checkpoint-000002")
    run.hold_data(train={"brick_0.png": "a matbrk wall", "brick_1.png": "a matbrk wall"})
    rows = {name: [[Image.new("RGB", (16, 16), (len(name), seed, 9)) for seed in (0, 1)]] for name in ("base", *CHECKPOINT_NAMES)}
    write_album(root / "artifacts" / "pictures", {CHECKPOINTS: rows}, ["a matbrk wall"], [0, 1])
    (root / "reports" / "evaluate").mkdir()
    (root / "artifacts" / "grids").mkdir()
    for name in ("grid", "base", *CHECKPOINT_NAMES):
        Image.new("RGB", (40, 20), (len(name), 0, 0)).save(root / "artifacts" / "grids" / f"{name}.png")
    (root / "concept.yaml").write_text("name: brick\ntrigger: matbrk\nprompts: [a matbrk wall]\n")
    (root / "data.dvc").write_text(f"outs:\n- md5: {DVC_DIGEST}\n  size: 3\n  hash: md5\n  path: data\n")
    return run


def metadata_of(step: int, code: str = "code-1", base_revision: str = "base-1") -> AdapterMetadata:
    """Return what the adapter of a step says of itself."""
    return AdapterMetadata(
        config=CONFIG,
        target_modules=TARGETS,
        base=BASE,
        base_revision=base_revision,
        data_digest="data-1",
        params_digest="params-1",
        code_digest=code,
        concept="brick",
        trigger="matbrk",
        step=step,
    )


def _scores(step: int, gain_low: float, diversity_ratio: float) -> dict[str, Any]:
    gain = {"mean": gain_low + 0.05, "low": gain_low, "high": gain_low + 0.1}
    same = {"mean": 0.5 + step / 100, "low": 0.4, "high": 0.6}
    return {
        "step": step,
        "similarity_train": same,
        "similarity_held_out": same,
        "similarity_gain": gain,
        "prompt_following": {"mean": 0.0, "low": -0.1, "high": 0.1},
        "diversity": {"mean": 0.3, "low": 0.2, "high": 0.4},
        "diversity_ratio": {"mean": diversity_ratio, "low": 0.1, "high": 1.0},
        "objections": _objections(gain_low, diversity_ratio) if step else [],
        "on_front": False,
    }


def _objections(gain_low: float, diversity_ratio: float) -> list[str]:
    learnt = [] if gain_low > 0 else ["not clearly above the base"]
    return learnt + ([] if diversity_ratio >= 0.5 else ["collapsed"])
