#!/bin/bash
# MLflow 3.17.2: two models that each carry their own copy of a package (code_paths) draw on one copy when both are loaded in one
# process, without a word; a dict with a list of texts becomes one row whose text is a list, although the signature says string;
# and parameters that the signature does not name never reach the model.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet mlflow==3.17.2 pandas==3.1.1
cd "$folder"
cat > model.py <<'PY'
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

class Model(PythonModel):
    def predict(self, context, model_input, params=None):
        from paint import COLOUR
        return [COLOUR, [type(text).__name__ for text in model_input["text"]], params]

set_model(Model())
PY
cat > run.py <<'PY'
import pathlib
import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

signature = ModelSignature(inputs=Schema([ColSpec("string", "text")]), params=ParamSchema([ParamSpec("seed", "long", 0)]))
for colour in ("red", "blue"):
    package = pathlib.Path(colour) / "paint"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"COLOUR = '{colour}'\n")
    mlflow.pyfunc.save_model(f"saved_{colour}", python_model="model.py", code_paths=[str(package)], signature=signature)
red, blue = mlflow.pyfunc.load_model("saved_red"), mlflow.pyfunc.load_model("saved_blue")
one = {"text": "a"}
# Expected: each model runs the code that it was saved with: red, blue
# Seen: both run the code of whichever came first on sys.path when the package was first imported
drawn = [red.predict(one)[0], blue.predict(one)[0]]
assert drawn == ["blue", "blue"], drawn
# Expected: {"text": ["a", "b"]} is two rows of text, as in pandas, or is refused, since a list is no string
# Seen: one row, whose text is a list
kinds = red.predict({"text": ["a", "b"]})[1]
assert kinds == ["list"], kinds
# Expected: an unknown parameter is an error, or at least the model can see it
# Seen: it is dropped, with a warning in the log, before the model is called
params = red.predict(one, params={"sead": 7})[2]
assert params == {"seed": 0}, params
print("seen as described: one code for both models, a list in a string column, a parameter dropped")
PY
"$folder/venv/bin/python" run.py 2> log || { cat log; exit 1; }
