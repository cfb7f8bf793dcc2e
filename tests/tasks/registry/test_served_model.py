import dataclasses
import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tasks.registry.versions import Drawing, ServedModel, create_version, is_copied
from tasks.tracking.store import open_store
from tests.tasks.finished_run import FinishedRun
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
bare = model.predict(pandas.DataFrame({"prompt": ["a matbrk wall"]}), params={"seed": 7, "scale": 0.0})
for name, image in zip(("adapted", "other", "bare"), [*drawn["image"], *bare["image"]]):
    open(sys.argv[2] + "/" + name + ".png", "wb").write(image)
print(sys.modules["tlora"].__file__)
"""


def test_what_serving_is_told_of_drawing_is_all_that_drawing_can_be_told() -> None:
    told = {field.name for field in dataclasses.fields(Drawing)} - {"max_sequence_length"}
    assert told == {field.name for field in dataclasses.fields(SampleSettings)}


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
    assert not answer.stdout.startswith(str(REPOSITORY))
    library = draw_with_the_library(
        finished_run.root / "moved" / "tiny-flux", finished_run.root / "adapters" / "checkpoint-000002"
    )
    served = {name: Image.open(elsewhere / f"{name}.png") for name in ("adapted", "other", "bare")}
    assert served["adapted"].tobytes() == library.tobytes()
    assert served["bare"].tobytes() != library.tobytes()
    assert served["other"].tobytes() != library.tobytes()


@pytest.mark.parametrize(("size", "copied"), [(49_000_000, True), (51_000_000, False)])
def test_a_base_in_a_folder_is_copied_up_to_50_mb(tmp_path: Path, size: int, copied: bool) -> None:
    with (tmp_path / "weights.safetensors").open("wb") as file:
        file.truncate(size)
    assert is_copied(ModelSpec(str(tmp_path))) == copied


def test_a_base_on_the_hub_is_named_by_id_and_revision_and_not_fetched(finished_run: FinishedRun) -> None:
    base = ModelSpec("black-forest-labs/FLUX.1-dev", revision="3de623fc3c33e44ffbe2bad470d0f45bccf2eb21")
    store = open_store()
    run_id = store.client.create_run(store.experiment_id).info.run_id
    drawing = Drawing(1024, 1024, 28, 3.5, 1.0, "timestep", tileable=False, max_sequence_length=512)
    served = ServedModel(finished_run.root / "adapters" / "final", base, drawing, 4)
    version = create_version(store, run_id, served, "tlora-FLUX.1-dev-brick", {})
    (description,) = (finished_run.root / "mlartifacts").rglob("MLmodel")
    python = yaml.safe_load(description.read_text())["flavors"]["python_function"]
    assert python["config"]["serve"]["base"] == "black-forest-labs/FLUX.1-dev"
    assert python["config"]["serve"]["revision"] == "3de623fc3c33e44ffbe2bad470d0f45bccf2eb21"
    assert list(python["artifacts"]) == ["adapter"]
    pinned = (description.parent / "requirements.txt").read_text().splitlines()
    assert all("==" in line for line in pinned)
    assert f"diffusers=={importlib.metadata.version('diffusers')}" in pinned
    assert (description.parent / "code" / "tlora" / "sampling.py").exists()
    assert version.version == 1


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
