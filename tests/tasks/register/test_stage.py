import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from tasks.register.choice import choose_checkpoint
from tasks.register.registration import read_registration
from tasks.registry.verdict import PromoteSettings
from tasks.registry.versions import aliases_of
from tasks.results.evaluation import read_evaluation
from tasks.tracking.store import open_store
from tests.tasks.finished_run import DVC_DIGEST, NAME, FinishedRun
from tlora.errors import CheckpointError, EvaluationError, PictureError
from tlora.trust.licences import LicenceSettings

REPOSITORY = Path(__file__).parents[3]


def snapshot(client: MlflowClient) -> dict[str, Any]:
    """Return all that the store holds, down to single points and artifacts."""
    (experiment,) = client.search_experiments(filter_string="name = 'tlora'")
    runs = client.search_runs([experiment.experiment_id])
    return {
        "runs": [(run.info.run_id, run.info.status, run.info.end_time, run.data.params, run.data.tags) for run in runs],
        "points": [client.get_metric_history(run.info.run_id, key) for run in runs for key in sorted(run.data.metrics)],
        "artifacts": [artifacts(client, run.info.run_id) for run in runs],
        "versions": [(v.version, v.tags, v.aliases, v.description) for v in client.search_model_versions(f"name = '{NAME}'")],
    }


def artifacts(client: MlflowClient, run_id: str, folder: str = "") -> list[str]:
    found = []
    for file in client.list_artifacts(run_id, folder):
        found += artifacts(client, run_id, file.path) if file.is_dir else [file.path]
    return found


def only_run(client: MlflowClient) -> Any:
    (experiment,) = client.search_experiments(filter_string="name = 'tlora'")
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def test_registering_twice_says_already_version_1_and_changes_nothing(
    finished_run: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    finished_run.register()
    before = snapshot(open_store().client)
    assert f"registered version 1 of {NAME}, now challenger, now champion" in capsys.readouterr().out
    finished_run.register()
    assert f"register: already version 1 of {NAME}\n" in capsys.readouterr().out
    assert snapshot(open_store().client) == before


def test_the_recommended_checkpoint_is_challenger_and_first_champion(finished_run: FinishedRun) -> None:
    finished_run.register()
    version = open_store().client.get_model_version_by_alias(NAME, "champion")
    assert sorted(version.aliases) == ["challenger", "champion"]
    expected = {
        "checkpoint": "checkpoint-000002",
        "step": "2",
        "recommended": "true",
        "data_digest": "data-1",
        "data_dvc": DVC_DIGEST,
        "git_commit": "c0ffee",
        "base": "models/tiny-flux",
        "base_revision": "base-1",
        "params_digest": "params-1",
        "evaluation.prompts": "prompts-1",
        "evaluation.held_out": "held-out-1",
        "evaluation.seeds": "0,1",
        "evaluation.evaluator": "an-evaluator@1",
        "rank_schedule": "lora, rank 1 at timestep 1000 to 4 at 0, exponent 1",
    }
    assert {name: version.tags[name] for name in expected} == expected
    assert len(version.tags["adapter_digest"]) == len(version.tags["evaluation_digest"]) == 64


def test_the_run_shows_curves_pictures_parameters_and_data(finished_run: FinishedRun) -> None:
    finished_run.register()
    client = open_store().client
    run = only_run(client)
    losses = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "train/loss")]
    assert losses == [(1, 1.0), (2, 1 / 2), (3, 1 / 3), (4, 1 / 4)]
    gains = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "uncertainty/similarity_gain_low")]
    assert gains == [(0, 0.0), (2, 0.1), (4, 0.1)]
    assert run.data.params["train.learning_rate"] == "0.001"
    assert run.data.params["train.min_rank"] == "1"
    assert [(given.dataset.name, given.dataset.digest) for given in run.inputs.dataset_inputs] == [("brick", DVC_DIGEST)]
    assert (run.info.status, run.info.end_time - run.info.start_time) == ("FINISHED", 1000)
    kept = artifacts(client, run.info.run_id)
    assert {
        "grids/grid.png",
        "grids/preview.png",
        "metrics/evaluate.json",
        "concept/concept.yaml",
        "reports/train/log.jsonl",
    } <= {*kept}
    pictures = [Path(file).name.split("+")[:3] for file in kept if file.startswith("images/") and file.endswith(".png")]
    assert sorted(pictures) == [["grid", "step", "0"], ["grid", "step", "2"], ["grid", "step", "4"]]


def test_the_description_holds_the_scores_and_the_grid(finished_run: FinishedRun) -> None:
    finished_run.register()
    client = open_store().client
    page = client.get_model_version(NAME, "1").description
    assert "| **checkpoint-000002** | 0.520 (0.400 to 0.600) | 0.520 (0.400 to 0.600) | 0.150 (0.100 to 0.200) |" in page
    assert f"![evaluation grid](get-artifact?path=grids%2Fpreview.png&run_uuid={only_run(client).info.run_id})" in page
    assert "Passes the gate for a first champion." in page
    digest = client.get_model_version(NAME, "1").tags["evaluation_digest"]
    assert f"(#/experiments/1/runs?searchFilter=tags.evaluation_digest%20%3D%20%27{digest}%27)" in page
    assert client.get_registered_model(NAME).description.startswith("T-LoRA adapters of **brick** (trigger word `matbrk`) for")


def test_a_second_opinion_stands_in_the_description_and_its_numbers_in_the_run(finished_run: FinishedRun) -> None:
    file = Path("metrics/evaluate.json")
    told = json.loads(file.read_text())
    told["checkpoints"]["checkpoint-000002"]["efficientnet_gain"] = {"mean": 0.25, "low": 0.125, "high": 0.5}
    file.write_text(json.dumps(told | {"second_opinion": {"agrees": False, "said": "Ann disagrees"}}))
    finished_run.register()
    client = open_store().client
    assert "by far the best.\n\nAnn disagrees.\n" in client.get_model_version(NAME, "1").description
    assert only_run(client).data.metrics["evaluate/efficientnet_gain"] == 0.25


@pytest.mark.parametrize(
    ("recommended", "gain_low", "diversity_ratio", "reason"),
    [
        (None, 0.0, 0.8, "not clearly above the base"),
        (None, 0.1, 0.49, "collapsed"),
        (None, 0.1, 0.8, "the evaluation recommends no checkpoint"),
        ("checkpoint-000004", 0.1, 0.49, "collapsed"),
    ],
)
def test_what_does_not_pass_the_gate_is_registered_but_not_champion(
    finished_run: FinishedRun,
    capsys: pytest.CaptureFixture[str],
    recommended: str | None,
    gain_low: float,
    diversity_ratio: float,
    reason: str,
) -> None:
    finished_run.evaluate(recommended, gain_low, diversity_ratio)
    finished_run.register()
    (version,) = open_store().client.search_model_versions(f"name = '{NAME}'")
    version = open_store().client.get_model_version(NAME, version.version)
    assert version.aliases == ["challenger"]
    assert (version.tags["step"], version.tags["recommended"]) == ("4", "true" if recommended else "false")
    assert f"Not fit to be champion unasked: {reason}" in version.description
    assert f"register: not champion: {reason}" in capsys.readouterr().out


def test_a_second_adapter_is_challenger_and_leaves_the_champion_alone(finished_run: FinishedRun) -> None:
    finished_run.register()
    finished_run.train(code="code-2", seed=2)
    finished_run.register()
    client = open_store().client
    assert aliases_of(open_store(), NAME) == {"champion": "1", "challenger": "2"}
    told = read_registration()
    assert told is not None
    assert (told.version, told.aliases, told.champion, told.comparable) == ("2", ["challenger"], "1", True)
    assert told.scores["similarity_gain"] == told.champion_scores["similarity_gain"] == pytest.approx(0.15)
    assert len(snapshot(client)["runs"]) == 2
    finished_run.train(code="code-1", seed=1)  # back to the champion: nothing is made or moved
    finished_run.register()
    assert aliases_of(open_store(), NAME) == {"champion": "1", "challenger": "2"}


def test_what_changed_in_the_data_since_the_champion_is_on_the_page_and_among_the_artifacts(
    finished_run: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    finished_run.register()
    assert "register: no champion yet to compare the data with\n" in capsys.readouterr().out
    finished_run.train(code="code-2", seed=2)
    finished_run.hold_data(train={"brick_0.png": "a matbrk floor", "brick_9.png": "a matbrk wall"})
    finished_run.register()
    said = "since the data of the champion (version 1): 1 picture added, 1 picture removed, 1 caption changed"
    assert f"register: {said}\n" in capsys.readouterr().out
    client = open_store().client
    version = client.get_model_version(NAME, "2")
    assert f"Data: {said}." in version.description
    assert {"manifest/train.json", "manifest/held_out.json"} <= {*artifacts(client, version.run_id)}
    page = Path(client.download_artifacts(version.run_id, "reports/register/data_changes.md")).read_text()
    assert "- `brick_0.png`: `a matbrk wall` is now `a matbrk floor`\n" in page
    assert page == Path("reports/register/data_changes.md").read_text()
    before = snapshot(client)
    finished_run.register()
    assert snapshot(client) == before


def test_a_new_evaluation_of_the_same_adapter_is_shown_on_the_same_version(
    finished_run: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    finished_run.evaluate("checkpoint-000002", diversity_ratio=0.2)
    finished_run.register()
    finished_run.evaluate("checkpoint-000002", diversity_ratio=0.9)
    finished_run.register()
    client = open_store().client
    version = client.get_model_version(NAME, "1")
    assert "already version 1" in capsys.readouterr().out
    assert "Passes the gate" in version.description
    assert sorted(version.aliases) == ["challenger", "champion"]
    ratios = client.get_metric_history(only_run(client).info.run_id, "decides/diversity_ratio")
    assert sorted((point.step, point.value) for point in ratios) == [(0, 1.0), (2, 0.2), (2, 0.9), (4, 0.2), (4, 0.9)]


def test_what_was_left_half_done_is_completed_not_doubled(finished_run: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("tasks.tracking.runs.log_files", full_disk)
        with pytest.raises(OSError, match="no space left"):
            finished_run.register()
    finished_run.register()
    client = open_store().client
    run_id = only_run(client).info.run_id
    assert [point.step for point in client.get_metric_history(run_id, "train/loss")] == [1, 2, 3, 4]
    assert sum(file.endswith(".png") for file in artifacts(client, run_id, "images")) == 3


def test_an_adapter_of_another_base_is_refused(finished_run: FinishedRun, tmp_path: Path) -> None:
    finished_run.train()
    text = (tmp_path / "adapters" / "checkpoint-000002" / "tlora_weights.safetensors").read_bytes()
    swapped = text.replace(b"models/tiny-flux", b"models/huge-flux")
    (tmp_path / "adapters" / "checkpoint-000002" / "tlora_weights.safetensors").write_bytes(swapped)
    with pytest.raises(CheckpointError, match=r"trained on models/huge-flux, model\.path is models/tiny-flux"):
        finished_run.register()


def test_a_recommended_checkpoint_that_is_not_there_is_refused(finished_run: FinishedRun) -> None:
    finished_run.evaluate("checkpoint-000008")
    with pytest.raises(CheckpointError, match="adapters/checkpoint-000008: no adapter there"):
        finished_run.register()


def test_what_lies_under_the_name_of_the_recommended_one_must_be_it(finished_run: FinishedRun) -> None:
    evaluation = read_evaluation(Path("metrics/evaluate.json"))
    choice = choose_checkpoint(Path("adapters"), Path("artifacts/recommended"), evaluation)
    assert choice.name == "checkpoint-000002"
    with pytest.raises(CheckpointError, match="is not checkpoint-000002, which is recommended: run evaluate again"):
        choose_checkpoint(Path("adapters"), Path("adapters/checkpoint-000004"), evaluation)


def test_a_damaged_evaluation_is_refused(finished_run: FinishedRun) -> None:
    Path("metrics/evaluate.json").write_text('{"recommended": null')
    with pytest.raises(CheckpointError, match=r"metrics/evaluate\.json: not valid JSON"):
        finished_run.register()


def test_an_incomplete_evaluation_is_refused(finished_run: FinishedRun) -> None:
    file = Path("metrics/evaluate.json")
    file.write_text(file.read_text().replace('"failures": {}', '"failures": {"evaluator": "nowhere: no evaluator there"}'))
    with pytest.raises(EvaluationError, match="the evaluation is incomplete: nowhere: no evaluator there: run evaluate again"):
        finished_run.register()


def test_data_that_nobody_versioned_is_refused(finished_run: FinishedRun) -> None:
    Path("data.dvc").unlink()
    with pytest.raises(PictureError, match=r"data\.dvc: no such file: version the pictures with 'dvc add data'"):
        finished_run.register()


def run_stage(root: Path) -> str:
    """Run `register` as DVC does, on the store of the repository itself, and return what it prints."""
    params = yaml.safe_load((REPOSITORY / "params/pocket.yaml").read_text())
    (root / "params.yaml").write_text(yaml.safe_dump(params | {"model": MODEL}))
    command = [sys.executable, "-m", "tasks.register", *OPTIONS]
    answer = subprocess.run(command, cwd=root, env=own_store(), capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def own_store() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"} | {"PYTHONPATH": str(REPOSITORY)}


OPTIONS = [
    *("--adapters", "adapters", "--metrics", "metrics/evaluate.json", "--grids", "artifacts/grids"),
    *("--pictures", "artifacts/pictures", "--recommended", "artifacts/recommended"),
    *("--reports", "reports", "--manifest", "artifacts/manifest", "--concept", "concept.yaml"),
]
MODEL = {"path": "models/tiny-flux", "revision": "", "dtype": "float32", "device": "cpu", "quantisation": "none"}


@pytest.mark.slow
def test_a_deleted_store_comes_back_whole(
    finished_run: FinishedRun, store_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store_file.unlink()
    first = run_stage(finished_run.root)
    assert f"registered version 1 of {NAME}, now challenger, now champion" in first
    assert f"register: already version 1 of {NAME}\n" in run_stage(finished_run.root)
    store_file.unlink()
    restored = f"register: restored {NAME} from what was decided: versions 1; challenger 1, champion 1\n"
    assert run_stage(finished_run.root).startswith(restored + f"register: already version 1 of {NAME}\n")
    client = open_store().client
    run = only_run(client)
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 4
    assert "grids/grid.png" in artifacts(client, run.info.run_id)
    assert run.info.artifact_uri.startswith((finished_run.root / "mlartifacts").as_uri())
    assert sorted(client.get_model_version(NAME, "1").aliases) == ["challenger", "champion"]


def test_licences_are_tags_and_a_first_champion_needs_those_that_promote_asks_for(
    finished_run: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    commercial = PromoteSettings(licence="commercial")
    finished_run.register(licence=LicenceSettings("Apache-2.0", "CC-BY-NC-4.0"), promote=commercial)
    store = open_store()
    tags = {"licence.base": "apache-2.0", "licence.data": "cc-by-nc-4.0", "licence.adapter": "apache-2.0"}
    version = store.client.get_model_version_by_alias(NAME, "challenger")
    assert tags.items() <= version.tags.items()
    assert tags.items() <= only_run(store.client).data.tags.items()
    assert "Licences: base: apache-2.0; data: cc-by-nc-4.0; adapter: apache-2.0." in version.description
    assert "register: not champion: version 1: the licence of its data (cc-by-nc-4.0) allows no" in capsys.readouterr().out
    assert aliases_of(store, NAME) == {"challenger": "1"}
    finished_run.register(licence=LicenceSettings("Apache-2.0", "CC0-1.0"), promote=commercial)
    assert aliases_of(store, NAME) == {"challenger": "1", "champion": "1"}
