"""The pocket FLUX.2 goes the whole way that the pocket FLUX goes, in a copy of this tree with its parameters."""

import json
import shutil
from pathlib import Path

import pytest

from tests.clone import QUICK, STAGES, new_clone, ran

pytestmark = pytest.mark.slow


def test_the_pocket_flux_2_is_trained_and_drawn_and_registered_by_its_own_name(tmp_path: Path) -> None:
    person = new_clone(tmp_path / "clone")
    shutil.copy(person.folder / "params/pocket2.yaml", person.folder / "params.yaml")
    person.change_params("params.yaml", {f"{s}.{k}": v for s, values in QUICK.items() for k, v in values.items()})
    output = person.repro()
    assert ran(output) == STAGES
    assert "tlora-pocket-flux2-brick" in output
    metrics = json.loads((person.folder / "reports/evaluate/evaluate.json").read_text())
    assert list(metrics["checkpoints"]) == ["base", "checkpoint-000002", "checkpoint-000004"]
