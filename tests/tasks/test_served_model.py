import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tasks.tracking.versions import Drawing
from tests.tasks.finished_run import FinishedRun
from tlora.base_model import ModelSpec
from tlora.checkpoint import attach_adapter
from tlora.model import load_scheduler, load_transformer, load_vae
from tlora.sampling import Painter, SampleSettings, draw_pictures
from tlora.text import encode_captions, load_text_encoders

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:The ..noload.. loader strategy:DeprecationWarning")  # mlflow on SQLAlchemy 2.1
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


def draw_with_the_library(base: Path, adapter: Path) -> Image.Image:
    spec = ModelSpec(str(base), dtype="float32", device="cpu")
    painter = Painter(load_transformer(spec), load_vae(spec), load_scheduler(spec))
    attach_adapter(painter.transformer, adapter)
    ((_, embedding),) = encode_captions(load_text_encoders(spec), ["a matbrk wall"], 16)
    embeddings = (embedding.prompt_embeds[None], embedding.pooled_prompt_embeds[None])
    (picture,) = draw_pictures(painter, embeddings, [7], SampleSettings(width=32, height=32, num_inference_steps=2))
    return picture
