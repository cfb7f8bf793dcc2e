"""What MLflow runs to serve a registered adapter: prompts in, PNGs out, the right sigma mask at every step.

MLflow copies this file, and `tlora` beside it, into the model's folder and runs it from there, perhaps on a machine that has
never seen the repository. So it imports nothing else of ours, and its last line hands the model to MLflow as the file is run.
"""

import io
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from pandas import DataFrame

if TYPE_CHECKING:
    from tlora.sampling import Painter, SampleSettings
    from tlora.text import TextEncoders


class TLoRAModel(PythonModel):
    """Loads the base model and the adapter when the first picture is asked for, and keeps them."""

    def __init__(self) -> None:
        self._loaded: tuple[Painter, TextEncoders] | None = None
        self._drawing = threading.Lock()  # a server has threads, and a layer holds the mask of one call at a time

    def predict(self, context: PythonModelContext, model_input: DataFrame, params: Mapping[str, Any] | None = None) -> DataFrame:
        """Draw one picture per row, each from the same seed, so that a picture does not depend on its neighbours.

        Args:
            context: Folders of the adapter and, where it was copied, of the base; `serve` of the model's configuration.
            model_input: Column `prompt`.
            params: seed, steps, guidance, scale, height, width; MLflow fills in the signature's defaults.

        Returns:
            Column `image`: PNG bytes.
        """
        served, given = context.model_config["serve"], params or {}
        settings = _settings(given, served)
        with self._drawing:
            self._loaded = self._loaded or _load(context)
            images = [
                _draw(self._loaded, prompt, served["max_sequence_length"], int(given["seed"]), settings)
                for prompt in model_input["prompt"]
            ]
        return DataFrame({"image": images})


def _load(context: PythonModelContext) -> "tuple[Painter, TextEncoders]":
    from pathlib import Path

    import torch

    from tlora.checkpoint import attach_adapter
    from tlora.flux.model import load_scheduler, load_transformer, load_vae
    from tlora.flux.spec import ModelSpec
    from tlora.sampling import Painter
    from tlora.text import load_text_encoders

    served = context.model_config["serve"]
    dtype: Literal["bfloat16", "float32"] = (
        "bfloat16" if torch.cuda.is_available() else "float32"
    )  # most CPUs run bfloat16 several times slower
    spec = ModelSpec(
        context.artifacts.get("base", served["base"]), served["revision"], dtype, quantisation=served["quantisation"]
    )
    painter = Painter(load_transformer(spec).eval(), load_vae(spec), load_scheduler(spec))
    attach_adapter(painter.transformer, Path(context.artifacts["adapter"]))
    painter.transformer.eval()
    return painter, load_text_encoders(spec)


def _settings(params: Mapping[str, Any], served: Mapping[str, Any]) -> "SampleSettings":
    from tlora.sampling import SampleSettings

    return SampleSettings(
        width=int(params["width"]),
        height=int(params["height"]),
        num_inference_steps=int(params["steps"]),
        guidance_scale=float(params["guidance"]),
        lora_scale=float(params["scale"]),
        sigma_mask=served["sigma_mask"],
        tileable=bool(served["tileable"]),
    )


def _draw(loaded: "tuple[Painter, TextEncoders]", prompt: str, length: int, seed: int, settings: "SampleSettings") -> bytes:
    from tlora.sampling import draw_pictures
    from tlora.text import encode_captions

    painter, encoders = loaded
    ((_, embedding),) = encode_captions(encoders, [prompt], length)
    embeddings = (embedding.prompt_embeds[None], embedding.pooled_prompt_embeds[None])
    file = io.BytesIO()
    draw_pictures(painter, embeddings, [seed], settings)[0].save(file, "PNG")
    return file.getvalue()


set_model(TLoRAModel())
