"""Every way in which DVC links its cache into a tree carries the whole pipeline: links are followed, and not written through."""

import pytest

from tests.clone import SHIPPED, STAGES, Clone, new_clone, ran

TINY = {
    "train.max_train_steps": 2,
    "train.checkpointing_steps": 2,
    "evaluate.num_inference_steps": 1,
    "evaluate.loss_pictures": 1,
    "evaluate.loss_noises": 1,
    "evaluate.scales": [1.0],
}


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """Return a clone in which nothing has run."""
    clone = new_clone(tmp_path_factory.mktemp("links") / "clone")
    clone.change_params("params.yaml", TINY)
    clone.commit("tiny")
    return clone


@pytest.mark.slow
@pytest.mark.parametrize("links", ["symlink", "hardlink", "reflink,copy"])
def test_the_pipeline_runs_and_registers_on_every_kind_of_link(person: Clone, links: str) -> None:
    person.environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{person.folder / links / 'mlflow.db'}"
    (person.folder / links).mkdir()
    (person.folder / "decisions.jsonl").unlink(missing_ok=True)  # of the store before: this one is new and not lost
    person.run("dvc", "config", "cache.type", links)
    person.run("dvc", "checkout", "--relink", "--force", *SHIPPED)
    said = person.repro("--force")
    assert ran(said) == STAGES
    assert "registered version 1 of tlora-pocket-flux-brick" in said
    assert "already version 1 of tlora-pocket-flux-brick\n" in person.repro()
    assert person.run("dvc", "status", *SHIPPED).strip() == "Data and pipelines are up to date."
    assert any(path.is_symlink() for path in (person.folder / "adapters").rglob("*")) == (links == "symlink")
