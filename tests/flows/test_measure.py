"""The champion measured anew: the stage `evaluate`, here a script, on the adapter that the registry holds."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tasks.promotion import PromoteSettings
from tasks.tracking.promotion import judge
from tasks.tracking.store import open_store
from tests.flows.kiln import fill_kiln, git, make_repository
from tests.flows.served import Served
from tests.tasks.registry import NAME, SCORES, add_version
from tlora.fingerprint import digest_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ..noload.. loader strategy:DeprecationWarning"),  # mlflow on SQLAlchemy 2.1
]
EVALUATE = """\
import json, pathlib
assert pathlib.Path("adapters/final/tlora_weights.safetensors").read_text() == "the champion"
scores = {**%r, "similarity_held_out": 0.25, "step": 50, "objections": []}
setup = {"prompts_digest": pathlib.Path("prompts.txt").read_text(), "seeds": [1000, 1001], "evaluator": "clip@1"}
setup |= {"drawing": {}, "held_out": "kept-1"}
checkpoints = {"base": {"step": 0}, "final": scores}
whole = {"recommended": "final", "reason": "", "checkpoints": checkpoints, "setup": setup, "failures": {}}
pathlib.Path("metrics").mkdir(exist_ok=True)
pathlib.Path("metrics/evaluate.json").write_text(json.dumps(whole))
"""


def test_it_is_scored_with_the_prompts_of_today_and_can_then_be_compared(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "kiln"
    make_repository(folder)
    fill_kiln(folder)
    (folder / "evaluate.py").write_text(EVALUATE % SCORES)
    (folder / "prompts.txt").write_text("yesterday's")
    graph = yaml.safe_load((folder / "dvc.yaml").read_text())
    graph["stages"]["evaluate"] = {
        "cmd": "python evaluate.py",
        "deps": ["prompts.txt"],
        "outs": [{"metrics/evaluate.json": {"cache": False}}],
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump(graph))
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "evaluate")
    (folder / "prompts.txt").write_text("today's")  # not committed: measured as the tree stands
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served.mlflow)
    store = open_store()
    try:
        add_version(store, "champion", tags={"evaluation.prompts": "yesterday's"})
        run = str(store.client.get_model_version(NAME, "1").run_id)
        (tmp_path / "tlora_weights.safetensors").write_text("the champion")
        store.client.log_artifact(run, str(tmp_path / "tlora_weights.safetensors"), "adapter/artifacts/final")
        add_version(
            store,
            "challenger",
            tags={"evaluation.prompts": "today's", "evaluation.drawing": digest_of({}), "evaluation.held_out": "kept-1"},
        )
        assert judge(store, NAME, PromoteSettings()).remedy == "prefect deployment run measure/champion"
        code = "from flows.measure import measure; print(measure(return_state=True).message)"
        done = subprocess.run([sys.executable, "-c", code], env=served.environment, capture_output=True, text=True, check=False)
        assert done.stdout.splitlines()[-1] == f"version 1 of {NAME} is measured anew: promote again", done.stderr
        verdict = judge(store, NAME, PromoteSettings())
        assert [check.champion for check in verdict.checks if check.metric == "similarity_held_out"] == [0.25]
        assert (folder / "prompts.txt").read_text() == "today's"
        assert git(folder, "worktree", "list").count("\n") == 0
    finally:
        store.client.delete_registered_model(NAME)
