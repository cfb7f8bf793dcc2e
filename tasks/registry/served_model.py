"""What MLflow runs to serve a registered adapter: prompts in, PNGs out, the right sigma mask at every step.

MLflow copies this file, and `tlora` beside it, into the model's folder and runs it from there, perhaps on a machine that has
never seen the repository. So it imports nothing else of ours, and its last line hands the model to MLflow as the file is run.
Every load imports that `tlora` under a name of its own: another version, or the repository, may be in the same process.
"""

import ast
import difflib
import importlib
import inspect
import io
import os
import sys
import tempfile
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import FileFinder, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, Literal

from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PyFuncModel, PythonModel, PythonModelContext
from pandas import DataFrame

if TYPE_CHECKING:
    from torch import Tensor

    from tlora.metadata.sample_settings import SampleSettings
    from tlora.sampling import Painter
    from tlora.text import Encoders

_CODE = Path(__file__).parent / "code"
_PARAMETERS = {  # as callers know them, and as the library does, which says what each may be
    "seed": "seed",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "scale": "lora_scale",
    "height": "height",
    "width": "width",
}
_PUBLIC_KEY = (
    "TLORA_PUBLIC_KEY"  # environment: PEM file that the version's files must be signed with, whatever they say themselves
)
_WHOLE = ("seed", "steps", "height", "width")


class _Studio:
    """Loads the base model and the adapter when the first picture is asked for, and keeps them."""

    def __init__(self) -> None:
        self._library = _own_library(_CODE)
        self._loaded: _Loaded | None = None
        self._drawing = threading.Lock()  # a server has threads, and a layer holds the mask of one call at a time

    def load_context(self, context: PythonModelContext) -> None:
        """Refuse to be loaded where a signature is asked for and does not hold.

        Raises:
            MlflowException: In one line.
        """
        asked, own = os.environ.get(_PUBLIC_KEY, ""), context.model_config["serve"].get("public_key", "")
        if not (asked or own):
            return
        with tempfile.TemporaryDirectory() as folder:
            key = Path(asked).expanduser() if asked else Path(folder) / "public.pem"
            if not asked:
                key.write_text(own, encoding="utf-8")
            try:
                _part(self._library, "trust.signing").verify_model(_CODE.parent, key)
            except _part(self._library, "errors").TloraError as error:
                raise MlflowException(str(error).replace(str(key), asked or "the key that it was registered with")) from error

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Draw one picture per prompt, each from the same seed, so that a picture does not depend on its neighbours.

        Args:
            context: Folders of the adapter and, where it was copied, of the base; `serve` of the model's configuration.
            model_input: A prompt, a list of prompts, a dict with either under `prompt`, or a DataFrame with that column.
            params: seed, steps, guidance, scale, height, width; MLflow fills in the signature's defaults.

        Returns:
            PNG bytes of one prompt; of several, a list of them in the order of the prompts.

        Raises:
            MlflowException: If an input or a parameter is unknown or cannot be drawn with (HTTP 400), or if the base model
                cannot be loaded (HTTP 500).
        """
        _refuse_unknown(_parameters_as_given(), list(_PARAMETERS), "parameter")
        served = context.model_config["serve"]
        prompts, (seed, settings) = _prompts(model_input), _settings(self._library, params or {}, served)
        with self._drawing:
            self._loaded = self._loaded or _load(self._library, context)
            drawn = [
                _draw(self._loaded, prompt, seed, settings) for prompt in ([prompts] if isinstance(prompts, str) else prompts)
            ]
        return drawn[0] if isinstance(prompts, str) else drawn


class TLoRAModel(_Studio, PythonModel):
    """What MLflow calls. Of a `predict` of its own it would ask for type hints, and turn every input into what they say."""


def _prompts(given: Any) -> str | list[str]:  # anything may come over HTTP
    if isinstance(given, DataFrame):
        given = {str(column): given[column] for column in given.columns}
    if isinstance(given, Mapping):
        _refuse_unknown(given, ["prompt"], "input")
        if "prompt" not in given:
            raise MlflowException.invalid_parameter_value("no prompt: give a text, a list of texts, or either as 'prompt'")
        given = given["prompt"]
    if hasattr(given, "tolist"):  # numpy's and pandas's: MLflow's server makes arrays of lists
        given = given.tolist()
    if isinstance(given, Sequence) and not isinstance(given, str):
        return [_one_prompt(item) for item in given]
    return _one_prompt(given)


def _one_prompt(given: Any) -> str:
    if isinstance(given, Mapping) and list(given) == ["prompt"]:
        given = given["prompt"]
    if not isinstance(given, str):
        raise MlflowException.invalid_parameter_value(f"a prompt is text, got {given!r:.100}")
    return given


def _parameters_as_given() -> Mapping[str, Any]:
    """Return the parameters as the caller gave them to MLflow, which drops what the signature does not name with a warning."""
    frame = inspect.currentframe()
    while frame and frame.f_code is not PyFuncModel.predict.__code__:
        frame = frame.f_back
    return (frame.f_locals.get("params") if frame else None) or {}


def _refuse_unknown(given: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise MlflowException.invalid_parameter_value(f"unknown {what} {name!r}, {hint}")


def _settings(library: str, params: Mapping[str, Any], served: Mapping[str, Any]) -> "tuple[int, SampleSettings]":
    """Return the seed, and how to draw, as far as the library takes it: one definition of what each number may be."""
    given: dict[str, Any] = {}
    for name, known_as in _PARAMETERS.items():
        value = params.get(name)
        if value is None:
            raise MlflowException.invalid_parameter_value(f"{name} has no value: leave it out for its default")
        given[known_as] = int(value) if name in _WHOLE else float(value)
    seed = given.pop("seed")
    kept = {"sigma_mask": served["sigma_mask"], "tileable": bool(served["tileable"])}
    try:
        _part(library, "runtime.ranges").require_seed("seed", seed)
        return seed, _part(library, "metadata.sample_settings").SampleSettings(**given, **kept)
    except ValueError as error:
        reason = str(error)
        for name, known_as in _PARAMETERS.items():
            reason = f"{name}{reason.removeprefix(known_as)}" if reason.startswith(f"{known_as} ") else reason
        raise MlflowException.invalid_parameter_value(reason) from error


@dataclass(frozen=True)
class _Loaded:
    """The version's own library and what it loaded; `served` is the model's configuration."""

    library: str
    painter: "Painter"
    encoders: "Encoders"
    served: Mapping[str, Any]


def _load(library: str, context: PythonModelContext) -> _Loaded:
    import torch

    served, model = context.model_config["serve"], _part(library, "flux.model")
    dtype: Literal["bfloat16", "float32"] = (
        "bfloat16" if torch.cuda.is_available() else "float32"
    )  # most CPUs run bfloat16 several times slower
    spec = _part(library, "flux.spec").ModelSpec(
        context.artifacts.get("base", served["base"]), served["revision"], dtype, quantisation=served["quantisation"]
    )
    try:
        transformer, sampling = model.load_transformer(spec).eval(), _part(library, "sampling")
        _part(library, "checkpoint").attach_adapter(transformer, Path(context.artifacts["adapter"]))
        encoders = _part(library, "text").load_text_encoders(spec)
        empty = _encoded(library, encoders, "", served) if sampling.draws_twice(spec) else None
        vae, scheduler = model.load_vae(spec), model.load_scheduler(spec)
        painter = sampling.Painter(transformer.eval(), vae, scheduler, empty_prompt=empty)
        return _Loaded(library, painter, encoders, served)
    except _part(library, "errors").TloraError as error:
        raise MlflowException(str(error)) from error


def _draw(loaded: _Loaded, prompt: str, seed: int, settings: "SampleSettings") -> bytes:
    embeddings = _encoded(loaded.library, loaded.encoders, prompt, loaded.served)
    try:
        (picture,) = _part(loaded.library, "sampling").draw_pictures(loaded.painter, embeddings, [seed], settings)
    except _part(loaded.library, "errors").SettingsError as error:
        raise MlflowException.invalid_parameter_value(str(error)) from error
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _encoded(library: str, encoders: "Encoders", prompt: str, served: Mapping[str, Any]) -> "tuple[Tensor, Tensor]":
    length = served["max_sequence_length"]
    ((_, embedding),) = _part(library, "text").encode_captions(encoders, [prompt], length)
    return embedding.prompt_embeds[None], embedding.pooled_prompt_embeds[None]


def _own_library(code: Path) -> str:
    """Make the package `tlora` of a folder importable below a new name, and return that name."""
    root = f"served_{uuid.uuid4().hex}"
    package = ModuleType(root)
    package.__path__ = [str(code)]
    sys.modules[root] = package
    sys.meta_path.insert(0, _OwnFinder(root))
    return root


def _part(library: str, name: str) -> Any:  # whose types are known under another name
    return importlib.import_module(f"{library}.tlora.{name}")


class _OwnFinder(MetaPathFinder):
    """Finds what lies below one name."""

    def __init__(self, root: str) -> None:
        self._root = root

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not path or not fullname.startswith(f"{self._root}."):
            return None
        return FileFinder(path[0], (_OwnLoader, [".py"])).find_spec(fullname)


class _OwnLoader(SourceFileLoader):
    """Loads a module with its imports of `tlora` turned to the copy that it belongs to."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile anew: a `.pyc` beside the file holds the imports as they were written."""
        path = self.get_filename(fullname)
        tree = ast.parse(self.get_data(path), path)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "tlora":
                node.module = f"{fullname.split('.')[0]}.{node.module}"
        return compile(tree, path, "exec", dont_inherit=True)


sys.path[:] = [folder for folder in sys.path if folder != str(_CODE)]  # MLflow's: whoever imports `tlora` means another
set_model(TLoRAModel())
