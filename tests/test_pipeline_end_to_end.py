"""The real dvc.yaml in a copy of this tree: real stages, the shipped models, a small number of steps.

The tests share one copy and run in the order in which they stand, as a person would go on working in one clone.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests.clone import Clone, ran

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clone(finished_clone: Clone) -> Clone:
    """A copy with the shipped data and models, quick settings, and one full run behind it."""
    return finished_clone


def test_the_adapters_grids_and_metrics_are_there(clone: Clone) -> None:
    assert sorted(p.name for p in (clone.folder / "adapters").iterdir()) == ["checkpoint-000002", "checkpoint-000004", "final"]
    metrics = json.loads((clone.folder / "reports/evaluate/evaluate.json").read_text())
    assert list(metrics["checkpoints"]) == ["base", "checkpoint-000002", "checkpoint-000004"]
    with Image.open(clone.folder / "artifacts/grids/grid.png") as grid:
        assert grid.width > 600
    assert "checkpoint-000004" in clone.run("dvc", "metrics", "show", "--json")


def test_again_only_register_runs_and_changes_nothing(clone: Clone) -> None:
    output = clone.repro()
    assert ran(output) == ["register"]
    assert "already version 1" in output


def test_a_change_in_any_room_that_train_does_not_use_makes_it_no_staler(clone: Clone) -> None:
    used = [clone.folder / dep for dep in yaml.safe_load((clone.folder / "dvc.yaml").read_text())["stages"]["train"]["deps"]]
    rooms = [place for package in ("tasks", "tlora") for place in sorted((clone.folder / package).glob("[a-z]*"))]
    unused = [place for place in rooms if not any(place in (dep, *dep.parents) for dep in used)]
    assert len(unused) > 15
    for place in [*unused, clone.folder / "tlora" / "training"]:
        file = place if place.is_file() else sorted(place.glob("[a-z]*.py"))[0]
        with file.open("a") as code:
            code.write("# changed\n")
        if place in unused[:-1]:
            continue  # DVC takes seconds to look: once for all unused rooms, and once for one that is used
        assert ("up to date" in clone.run("dvc", "status", "train")) == (place in unused)
    clone.run("git", "checkout", "--quiet", "tasks", "tlora")


def test_a_deleted_store_comes_back_without_training(clone: Clone) -> None:
    (clone.folder / "mlflow.db").unlink()
    output = clone.repro()
    assert ran(output) == ["register"]
    assert "version 1" in output


def test_a_changed_evaluation_prompt_retrains_nothing(clone: Clone) -> None:
    prompts = yaml.safe_load((clone.folder / "concept.yaml").read_text())["prompts"]
    clone.change_params("concept.yaml", {"prompts": [*prompts[:-1], "a photo of a matbrk ball"]})
    assert ran(clone.repro()) == ["validate", "cache_prompts", "draw_prior", "evaluate", "register"]


def test_another_learning_rate_runs_only_what_depends_on_it(clone: Clone) -> None:
    """Nothing is validated or encoded again, and the fresh start says why it is one."""
    clone.change_params("params.yaml", {"train.learning_rate": 5e-4})
    output = clone.repro()
    assert ran(output) == ["train", "evaluate", "register"]
    assert "starting afresh at step 0: params.train.training.optimizer.learning_rate was 0.002, is 0.0005" in output


def test_a_wrong_key_is_one_line_with_the_nearest_name(clone: Clone) -> None:
    clone.run("git", "stash", "--quiet", "--", "params.yaml")
    text = (clone.folder / "params.yaml").read_text()
    (clone.folder / "params.yaml").write_text(text.replace("learning_rate:", "lerning_rate:"))
    output = clone.run("dvc", "repro", "train", fails=True)
    assert "unknown key 'lerning_rate', did you mean 'learning_rate'?" in output
    assert "Traceback" not in output
    (clone.folder / "params.yaml").write_text(text)
    clone.run("git", "stash", "pop", "--quiet")


def test_a_truncated_picture_and_a_missing_model_are_one_line_each(clone: Clone) -> None:
    picture = clone.folder / "data/images/brick_0.png"
    whole = picture.read_bytes()
    picture.unlink()
    picture.write_bytes(whole[:2000])
    output = clone.run("dvc", "repro", "validate", fails=True)
    assert "brick_0.png" in output
    assert "Traceback" not in output
    picture.write_bytes(whole)
    clone.run("dvc", "commit", "--force", "data.dvc")
    command = [sys.executable, "-m", "tasks.cache_latents", "--params", "broken.yaml"]
    paths = ["manifest", "held-out", "data", "train", "evaluation"]
    broken = (clone.folder / "params.yaml").read_text().replace("path: models/pocket-flux", "path: models/no-such-model")
    (clone.folder / "broken.yaml").write_text(broken)
    output = clone.run(*command, *[word for path in paths for word in (f"--{path}", "nowhere")], fails=True)
    assert "models/no-such-model: no base model there" in output
    assert "Traceback" not in output
    (clone.folder / "broken.yaml").unlink()


def test_a_picture_added_ends_in_the_same_lock_whichever_caller_ran(clone: Clone, tmp_path: Path) -> None:
    twin = Clone(tmp_path / "twin")
    shutil.copytree(clone.folder, twin.folder, symlinks=True)
    for person in (clone, twin):
        picture = Image.open(person.folder / "data/images/brick_0.png").rotate(180)
        picture.save(person.folder / "data/images/brick_9.png")
        (person.folder / "data/images/brick_9.txt").write_text("a wall of matbrk\n")
    clone.repro()
    twin.run(sys.executable, "-m", "flows.pipeline")
    assert (clone.folder / "data.dvc").read_text() == (twin.folder / "data.dvc").read_text()
    assert lock_of(clone) == lock_of(twin)


def lock_of(person: Clone) -> dict[str, object]:
    """Return dvc.lock without reports/train, which holds times and the host and so differs from run to run."""
    stages = yaml.safe_load((person.folder / "dvc.lock").read_text())["stages"]
    for stage in stages.values():
        for kind in ("deps", "outs"):
            stage[kind] = [entry for entry in stage.get(kind, []) if entry["path"] != "reports/train"]
    return stages


def test_another_machine_restores_and_trains_nothing(clone: Clone, tmp_path: Path) -> None:
    """As README says it, with data of one's own: a picture is among them that is not shipped."""
    text = (clone.folder / "README.md").read_text()
    (printed,) = re.findall(r"On another machine, where this trains nothing:\n\n```sh\n(.*?)```", text, re.DOTALL)
    clone.run("dvc", "remote", "add", "--default", "team", str(tmp_path / "remote"))
    clone.run("dvc", "push")
    clone.commit("run")
    other = Clone(tmp_path / "other")
    subprocess.run(["git", "clone", "--quiet", str(clone.folder), str(other.folder)], check=True)
    installed = 'make() { command make --assume-old=.venv/.installed "$@"; }'
    output = other.run("bash", "-euc", f"{installed}\n{printed}")
    assert ran(output) == ["register"], output
    assert (other.folder / "data/images/brick_9.png").exists()
