"""A pipeline small enough to run in seconds, with all that retraining looks at: data, base, settings, code and a registry."""

import json
import subprocess
import sys
from pathlib import Path

import yaml

from tasks.dvc_command import read_dvc_file, run_dvc
from tasks.tracking.store import Store
from tests.tasks.filled_registry import add_version
from tlora.flux.files import base_revision
from tlora.flux.spec import ModelSpec

SHIPPED = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
PARAMS = {
    "model": SHIPPED["model"] | {"path": "models/kiln"},
    "train": {"rank": 16, "learning_rate": 0.002, "max_train_steps": 4},
    "promote": SHIPPED["promote"],
    "retrain": SHIPPED["retrain"],
    "trust": SHIPPED["trust"],
}
DVC_YAML = """\
stages:
  train:
    cmd: cat data/*.txt > adapter.txt
    deps: [data, train.py, flows/clay]
    params: [train]
    outs: [adapter.txt]
  register:
    cmd: python register.py
    deps: [adapter.txt]
    always_changed: true
"""
REGISTER = """\
from pathlib import Path
from tasks.tracking.store import open_store
from tests.flows.kiln import register_present
register_present(open_store(), "challenger")
"""


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    return subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def dvc(folder: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, check=True, capture_output=True, text=True)


def make_repository(folder: Path) -> None:
    """Make a git and DVC repository with tracked data, nothing else, and commit it."""
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    (folder / "data").mkdir()
    (folder / "data" / "brick.txt").write_text("brick\n")
    (folder / ".gitignore").write_text("/data\n/.state\n/.dvc/site\n/adapter.txt\n/mlflow.db*\n/mlartifacts\n__pycache__/\n")
    git(folder, "init", "--quiet", "--initial-branch", "main")
    dvc(folder, "add", "--quiet", "data")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "data")


def fill_kiln(folder: Path) -> None:
    """Add stages, settings, a base model and code to a repository, and commit them."""
    files = {
        "dvc.yaml": DVC_YAML,
        "train.py": "# code\n",
        "flows/clay/part.py": "# code\n",  # a room: DVC names the folder alone
        "register.py": REGISTER,
        "params.yaml": yaml.safe_dump(PARAMS),
        "concept.yaml": "name: brick\ntrigger: matbrk\nheld_out: [b.png]\nprompts: [a matbrk wall]\n",
        "models/kiln/model_index.json": "{}",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "kiln")


def register_present(store: Store, alias: str, tags: dict[str, str] | None = None) -> str:
    """Register a version made from what is in the working folder, unless there is one."""
    params = yaml.safe_load(Path("params.yaml").read_text())
    made_from = {"data_dvc": read_dvc_file(Path("data.dvc"))[1], "base_revision": base_revision(ModelSpec("models/kiln"))}
    logged = {f"{section}.{name}": str(value) for section in ("model", "train") for name, value in params[section].items()}
    logged["train.rank"] = str(float(params["train"]["rank"]))  # as a run says it
    return add_version(store, alias, tags={**made_from, **(tags or {})}, params=logged)


def own_by_others(folder: Path, source: Path) -> None:
    """Let the data of a repository be an import from another one, which is made here; commit that."""
    make_repository(source)
    git(folder, "rm", "--quiet", "data.dvc")
    dvc(folder, "import", "--quiet", "--force", str(source), "data")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "import")


def run_everything() -> None:
    """Run the stages, so that DVC finds nothing changed."""
    run_dvc("repro", "--quiet", "train")


def changed_settings(**changes: object) -> None:
    """Change settings of section `train` in params.yaml."""
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["train"] |= json.loads(json.dumps(changes))
    Path("params.yaml").write_text(yaml.safe_dump(params))
