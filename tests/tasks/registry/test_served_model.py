import ast
import base64
import dataclasses
import importlib.metadata
import io
import math
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel, load_model, scoring_server
from pandas import DataFrame, Series
from PIL import Image
from starlette.testclient import TestClient

from tasks.registry.versions import create_version, is_copied
from tasks.tracking.store import open_store
from tests.tasks.finished_run import FinishedRun, lay_out
from tlora.checkpoint import attach_adapter
from tlora.flux.model import load_scheduler, load_transformer, load_vae
from tlora.flux.spec import ModelSpec
from tlora.sampling import Painter, SampleSettings, draw_pictures
from tlora.text import encode_captions, load_text_encoders

REPOSITORY = Path(__file__).parents[3]
DRAW = """
import sys
import mlflow
import pandas

mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/tlora-tiny-flux-brick@champion")
drawn = model.predict(pandas.DataFrame({"prompt": ["a matbrk wall", "a wall"]}), params={"seed": 7})
bare = model.predict("a matbrk wall", params={"seed": 7, "scale": 0.0})
for name, image in zip(("adapted", "other", "bare"), [*drawn, bare]):
    open(sys.argv[2] + "/" + name + ".png", "wb").write(image)
assert "tlora" not in sys.modules
"""


@pytest.mark.slow
def test_another_process_without_the_repository_draws_what_the_library_draws(
    finished_run: FinishedRun, store_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    finished_run.register()
    (finished_run.root / "models").rename(finished_run.root / "moved")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    command = [sys.executable, "-I", "-c", DRAW, f"sqlite:///{store_file}", str(elsewhere)]
    answer = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    library = draw_with_the_library(
        finished_run.root / "moved" / "tiny-flux", finished_run.root / "adapters" / "checkpoint-000002"
    )
    served = {name: Image.open(elsewhere / f"{name}.png") for name in ("adapted", "other", "bare")}
    assert served["adapted"].tobytes() == library.tobytes()
    assert served["bare"].tobytes() != library.tobytes()
    assert served["other"].tobytes() != library.tobytes()


@pytest.fixture(scope="module")
def version(tiny_base: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a registered version."""
    root = tmp_path_factory.mktemp("version")
    shutil.copy(empty_store, root / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
        lay_out(root, tiny_base).register()
    (description,) = root.rglob("MLmodel")
    return description.parent


@pytest.fixture(scope="module")
def model(version: Path) -> PyFuncModel:
    return load_model(str(version))


WALL = "a matbrk wall"
SEVERAL = [
    [WALL, "a wall"],
    (WALL, "a wall"),
    {"prompt": [WALL, "a wall"]},
    {"prompt": np.array([WALL, "a wall"])},
    [{"prompt": WALL}, {"prompt": "a wall"}],
    DataFrame({"prompt": [WALL, "a wall"]}),
    np.array([WALL, "a wall"]),
    Series([WALL, "a wall"]),
]


@pytest.mark.parametrize("one", [WALL, {"prompt": WALL}, np.array(WALL)], ids=repr)
def test_one_prompt_gives_the_bytes_of_a_png(model: PyFuncModel, one: object) -> None:
    assert model.predict(one, params={"seed": 7}) == model.predict(WALL, params={"seed": 7})
    png = model.predict(one, params={"seed": 7})
    assert isinstance(png, bytes)
    assert Image.open(io.BytesIO(png)).format == "PNG"


@pytest.mark.parametrize("several", SEVERAL, ids=lambda given: type(given).__name__)
def test_several_prompts_give_a_list_in_their_order(model: PyFuncModel, several: object) -> None:
    wanted = [model.predict(prompt, params={"seed": 7}) for prompt in (WALL, "a wall")]
    assert wanted[0] != wanted[1]
    assert model.predict(several, params={"seed": 7}) == wanted


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (7, "a prompt is text, got 7"),
        (None, "a prompt is text, got None"),
        ([WALL, 7], "a prompt is text, got 7"),
        (DataFrame({"prompt": [None]}), "a prompt is text, got None"),
        ({"promt": WALL}, "unknown input 'promt', did you mean 'prompt'?"),
        ({"prompt": WALL, "seed": 7}, "unknown input 'seed', known: prompt"),
        ({}, "no prompt: give a text, a list of texts, or either as 'prompt'"),
        ([["a", "b"]], "a prompt is text, got ['a', 'b']"),
    ],
)
def test_what_is_no_prompt_is_refused_in_one_line(model: PyFuncModel, given: object, words: str) -> None:
    assert refusal(model, given, {}) == words


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"sead": 7}, "unknown parameter 'sead', did you mean 'seed'?"),
        ({"seed": 7, "colour": "red"}, "unknown parameter 'colour', known: seed, steps, guidance, scale, height, width"),
        ({"seed": None}, "seed has no value: leave it out for its default"),
        ({"seed": -1}, "seed must be in 0..2**63 - 1, got -1"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"steps": 10**12}, "steps must be at most 1000, got 1000000000000"),
        ({"width": 65}, "width and height must be multiples of 4, got 65 x 32"),
        ({"height": -32}, "height must be at least 1, got -32"),
        ({"scale": math.nan}, "scale must be in -1000..1000, got nan"),
        ({"guidance": math.inf}, "guidance must be in 0..1000, got inf"),
        ({"guidance": -1.0}, "guidance must be in 0..1000, got -1.0"),
        ({"scale": 1e300}, "scale must be in -1000..1000, got 1e+300"),
        ({"seed": 2**70}, f"seed must be in 0..2**63 - 1, got {2**70}"),
    ],
)
def test_a_parameter_that_is_unknown_or_cannot_be_drawn_with_is_refused_in_one_line(
    model: PyFuncModel, params: dict[str, object], words: str
) -> None:
    assert refusal(model, WALL, params) == words


def test_a_parameter_of_the_wrong_kind_is_refused_by_name(model: PyFuncModel) -> None:
    assert "seed" in refusal(model, WALL, {"seed": "seven"})
    assert "seed" in refusal(model, WALL, {"seed": 10**400})


def refusal(model: PyFuncModel, given: object, params: dict[str, object]) -> str:
    with pytest.raises(MlflowException) as caught:
        model.predict(given, params=params)
    assert caught.value.get_http_status_code() == 400
    assert "\n" not in caught.value.message
    return str(caught.value.message)


def test_over_http_pictures_are_base64_and_refusals_are_400(model: PyFuncModel) -> None:
    client = TestClient(scoring_server.init(model))
    wanted = model.predict(WALL, params={"seed": 7})
    forms = (
        {"inputs": WALL},
        {"inputs": [WALL]},
        {"inputs": {"prompt": [WALL]}},
        {"instances": [{"prompt": WALL}]},
        {"dataframe_split": {"columns": ["prompt"], "data": [[WALL]]}},
    )
    for form in forms:
        answer = client.post("/invocations", json=form | {"params": {"seed": 7}})
        assert answer.status_code == 200, answer.text
        drawn = answer.json()["predictions"]
        assert base64.b64decode(drawn if isinstance(drawn, str) else drawn[0]) == wanted
    for params in ({"sead": 7}, {"seed": None}, {"steps": 0}, {"width": 65}, {"seed": "seven"}):
        answer = client.post("/invocations", json={"inputs": WALL, "params": params})
        assert answer.status_code == 400, answer.text
        assert next(iter(params)) in answer.json()["message"]
        assert "Traceback" not in answer.text


def test_two_versions_in_one_process_draw_with_their_own_code_each(version: Path, model: PyFuncModel, tmp_path: Path) -> None:
    """The repository's `tlora` is imported here too, and stays what it was."""
    here, path = sys.modules["tlora"], list(sys.path)
    shutil.copytree(version, tmp_path / "negative")
    file = tmp_path / "negative/code/tlora/sampling.py"
    text = file.read_text()
    file.write_text(text.replace("((pixels + 1) * 127.5)", "((1 - pixels) * 127.5)"))
    assert file.read_text() != text
    negative = load_model(str(tmp_path / "negative"))
    first, second, again = (m.predict(WALL, params={"seed": 7}) for m in (model, negative, model))
    assert first == again
    assert np.abs(255 - pixels_of(first) - pixels_of(second)).max() <= 1
    assert sys.modules["tlora"] is here
    assert sys.path == path


def pixels_of(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)), dtype=np.int64)


def test_every_import_of_the_librarys_own_is_one_that_a_served_version_can_turn_to_its_copy() -> None:
    for file in (REPOSITORY / "tlora").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                assert not any(alias.name.split(".")[0] == "tlora" for alias in node.names), file


@pytest.mark.parametrize(("size", "copied"), [(49_000_000, True), (51_000_000, False)])
def test_a_base_in_a_folder_is_copied_up_to_50_mb(tmp_path: Path, size: int, copied: bool) -> None:
    with (tmp_path / "weights.safetensors").open("wb") as file:
        file.truncate(size)
    assert is_copied(ModelSpec(str(tmp_path))) == copied


def test_a_base_on_the_hub_is_named_by_id_and_revision_and_not_fetched(finished_run: FinishedRun) -> None:
    base = ModelSpec("black-forest-labs/FLUX.1-dev", revision="3de623fc3c33e44ffbe2bad470d0f45bccf2eb21")
    store = open_store()
    run_id = store.client.create_run(store.experiment_id).info.run_id
    drawing = {**dataclasses.asdict(SampleSettings(1024, 1024, 28)), "max_sequence_length": 512}
    adapter, tags = finished_run.root / "adapters" / "final", {"concept": "brick", "step": "4"}
    version = create_version(store, run_id, adapter, base, drawing, tags)
    (description,) = (finished_run.root / "mlartifacts").rglob("MLmodel")
    python = yaml.safe_load(description.read_text())["flavors"]["python_function"]
    assert python["config"]["serve"]["base"] == "black-forest-labs/FLUX.1-dev"
    assert python["config"]["serve"]["revision"] == "3de623fc3c33e44ffbe2bad470d0f45bccf2eb21"
    assert list(python["artifacts"]) == ["adapter"]
    pinned = (description.parent / "requirements.txt").read_text().splitlines()
    assert all("==" in line for line in pinned)
    assert f"diffusers=={importlib.metadata.version('diffusers')}" in pinned
    assert (description.parent / "code" / "tlora" / "sampling.py").exists()
    assert (version.name, version.version) == ("tlora-FLUX.1-dev-brick", 1)


def draw_with_the_library(base: Path, adapter: Path) -> Image.Image:
    spec = ModelSpec(str(base), dtype="float32", device="cpu")
    painter = Painter(load_transformer(spec), load_vae(spec), load_scheduler(spec))
    attach_adapter(painter.transformer, adapter)
    ((_, embedding),) = encode_captions(load_text_encoders(spec), ["a matbrk wall"], 16)
    embeddings = (embedding.prompt_embeds[None], embedding.pooled_prompt_embeds[None])
    (picture,) = draw_pictures(painter, embeddings, [7], SampleSettings(width=32, height=32, num_inference_steps=2))
    return picture


FORMER = """
import io, sys
import mlflow, pandas
import {imported_before}
from PIL import Image

model = mlflow.pyfunc.load_model(sys.argv[1])
(image,) = model.predict(pandas.DataFrame({{"prompt": ["a matbrk wall"]}}), params={{"seed": 7}})["image"]
assert Image.open(io.BytesIO(image)).tobytes() == Image.open(sys.argv[1] + "/expected.png").tobytes()
"""


@pytest.mark.slow
@pytest.mark.parametrize("imported_before", ["json", "tlora.errors, tlora.sampling"])
def test_a_version_that_was_registered_by_earlier_code_draws_the_same_picture(tmp_path: Path, imported_before: str) -> None:
    with zipfile.ZipFile(REPOSITORY / "tests/fixtures/served_model_1/model.zip") as file:
        file.extractall(tmp_path)
    command = [sys.executable, "-c", FORMER.format(imported_before=imported_before), str(tmp_path)]
    answer = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
