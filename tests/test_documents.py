"""Every fenced command and snippet of README.md and docs/*.md is run as it is printed, here or elsewhere, or it is said why not.

A new block fails the first test until it stands in one of the tables.
"""

import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.clone import Clone
from tests.documented import ROOT, blocks
from tests.tasks.data_folder import texture
from tlora.cli import main
from tlora.metadata.adapter import WEIGHTS_FILE

OUTPUTS = ("drawn", "exported", "imported", "published")  # of a document's commands; the next one writes its own
MODEL = "tlora-pocket-flux-brick"

# Run by another test: the file, and the words in it that run the same.
ELSEWHERE = {
    "dvc repro": ("tests/clone.py", '"dvc", "repro"'),
    "python -m flows.pipeline": ("tests/test_pipeline_end_to_end.py", '"flows.pipeline"'),
    "make serve": ("tests/flows/served.py", '"flows.serve"'),
    "prefect deployment run pipeline/on-demand": ("tests/flows/served.py", "create_flow_run"),
    "prefect deployment run pipeline/on-demand -p 'overrides=[\"train.rank=32\"]'": (
        "tests/flows/test_serve.py",
        "overrides=SHORTER",
    ),
    "make studio": ("tests/services/studio.py", '"-m", "studio"'),
    "make promote": ("tests/flows/test_promote.py", '"flows.promote"'),
    'make rollback WHY="grey joints"': ("tests/flows/test_promote.py", '"--rollback"'),
    "python -m flows.retrain": ("tests/flows/test_retrain.py", '"flows.retrain"'),
    "prefect event emit tlora.data.changed --resource-id tlora.data": ("tests/flows/test_retrain.py", '"event", "emit"'),
    "make pull": ("tests/clone.py", '"dvc", "pull", "--remote", "shipped"'),
    "dvc repro --allow-missing": ("tests/test_pipeline_end_to_end.py", "README.md"),
    "dvc exp run -S": ("tests/flows/test_experiments.py", '"exp", "run"'),
    "dvc exp run --temp": ("tests/flows/test_experiments.py", '"--temp"'),
    "dvc exp run --queue": ("tests/flows/test_experiments.py", '"--queue"'),
    "dvc exp show": ("tests/flows/test_experiments.py", '"exp", "show"'),
    "dvc exp apply NAME": ("tests/flows/test_experiments.py", '"exp", "apply"'),
    "make sbom": ("tests/tasks/test_sbom.py", "import main"),
    "make audit": ("tests/tasks/test_audit.py", "import main"),
    "make caption MODEL=": ("tests/tasks/test_caption.py", "from tasks.caption import"),
    "make caption WRITE=1": ("tests/tasks/test_caption.py", '"--write"'),
    "make check": ("tests/flows/test_night.py", "flows.check"),
    "TLORA_NOTIFY_URL=https://hooks.example.org/... make serve": ("tests/flows/served.py", '"TLORA_NOTIFY_URL"'),
    "mlflow models serve -m": ("tests/test_stores_end_to_end.py", '"models", "serve"'),
    "curl -s 127.0.0.1:8000/invocations": ("tests/test_stores_end_to_end.py", "/invocations"),
    "mlflow server --host": ("tests/services/tracking.py", '"--artifacts-destination"'),
    "dvc pull adapters": ("tests/test_pipeline_end_to_end.py", "README.md"),
    "dvc remote add --default team s3://": ("tests/test_object_store.py", '"remote", "add"'),
    "mlflow server --app-name basic-auth": ("tests/services/tracking.py", '"basic-auth"'),
    "printf '[mlflow]\\ndefault_permission = READ": ("tests/services/tracking.py", "default_permission = READ"),
    "import os\n\nfrom mlflow import MlflowClient": ("tests/services/tracking.py", "docs/logins.md"),
    "make serve STORE=s3": ("tests/flows/test_night.py", '"--store", "s3"'),
    "dvc remote add --default team ssh://": ("tests/test_stores_end_to_end.py", '"remote", "add"'),
    "from tlora.adapter import TLoRAConfig": ("tests/test_public_names.py", "README.md"),
    "python -m flows.pull_request --against HEAD": (
        "tests/flows/test_pull_request.py",
        '"flows.pull_request", "--against", "HEAD"',
    ),
    "dvc push": ("tests/test_stores_end_to_end.py", '"push"'),
}
_SERVER = "needs a server that stays, as on several machines; `make serve` does the same and is tested"
NOT_RUN = {  # the beginning of a command, and why nobody runs it
    "$EDITOR .state/captions/": "opens what `make caption` proposed, which needs a model from the hub",
    "make demo": "installs, and then is `dvc repro`",
    "make test": "is what runs this",
    "UV_TORCH_BACKEND=": "needs PyTorch's index",
    "PIP_FIND_LINKS=": "names a folder of yours",
    "mlflow ui": "runs until Ctrl-C, and shows the store that the other tests read",
    "prefect deployment schedule ls": "lists what `make serve` makes; its tests ask the server itself",
    'python -c "import os; from prefect.blocks.notifications import SendgridEmail': "needs an account for mail",
    "name: tlora-mail": "needs the block of the command before it",
    'python -c "from prefect.blocks.system import Secret': "writes into Prefect's database of whoever runs it",
    "Prefect server (PREFECT_API_URL)": "is a drawing",
    "Prefect                 ok": "is what `make check` prints",
    "mkdir -p ~/.config/systemd": "installs a service",
    "systemctl --user": "needs the user's own systemd",
    "loginctl": "needs the user's own systemd",
    "prefect work-pool": _SERVER,
    "prefect --no-prompt deploy --all": _SERVER,
    "prefect automation create": _SERVER,
    "prefect worker start": _SERVER,
    "prefect server start": _SERVER,
    "git clone ...": "names no address",
    "git checkout concept.yaml params.yaml data.dvc": "puts back what `make demo DATA=rock` replaced",
    "docker ": "needs Docker's daemon",
    "printf 'POSTGRES_PASSWORD": "makes passwords for `docker compose`",
    "export ": "sets the address of a server",
    "pip install": "installs",
    "cp ../keys/": "copies the key that the command before it made",
    "trust:\n": "is a part of params.yaml, as tests/tlora/commands/test_infer.py writes it",
    "dvc remote modify --local team keyfile": "names somebody's key",
}
OWN_PICTURES = (
    "make new",
    "$EDITOR concept.yaml",
    "dvc repro validate",
    "make fix",
)  # run here, on a copy: they replace the data


def test_every_command_of_the_documents_is_run_or_it_is_known_why_not() -> None:
    unknown = [f"{block.document}: {command}" for block in blocks() for command in block.commands() if not known(command)]
    assert unknown == []


def test_the_tables_name_nothing_that_no_document_holds_any_more() -> None:
    printed = [command for block in blocks() for command in block.commands()]
    for beginning in (*ELSEWHERE, *NOT_RUN, *HERE, *OWN_PICTURES):
        assert any(command.startswith(beginning) for command in printed), beginning


@pytest.mark.parametrize("command", ELSEWHERE)
def test_what_is_run_elsewhere_is(command: str) -> None:
    file, words = ELSEWHERE[command]
    assert words in (ROOT / file).read_text(encoding="utf-8")


HERE = (  # the beginnings of what is run below
    "dvc metrics show",
    "make plan",
    "make prune",
    "make restore VERSION=champion",
    "tlora ",
    'echo "a matbrk wall" | tlora infer',
    "from pathlib import Path\n\nimport mlflow",
    "import torch\nfrom diffusers",
    "import sys\n\nimport torch\nfrom diffusers",
)


def known(command: str) -> bool:
    return command in ELSEWHERE or command.startswith((*NOT_RUN, *HERE, *OWN_PICTURES)) or is_elsewhere(command)


def is_elsewhere(command: str) -> bool:
    """Whether another test runs it; long commands stand in the table by their beginning."""
    return any(command.startswith(beginning) and len(beginning.split()) > 2 for beginning in ELSEWHERE)


@pytest.fixture
def clone(finished_clone: Clone, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clone]:
    """The finished clone as `make demo` leaves it: something is recommended, and is champion. It is put back afterwards."""
    recommended = finished_clone.folder / "artifacts/recommended"
    shutil.move(recommended, kept := finished_clone.folder.parent / "recommended")
    recommended.mkdir()
    shutil.copyfile(finished_clone.folder / "adapters/final" / WEIGHTS_FILE, recommended / WEIGHTS_FILE)
    alias = f"client = __import__('mlflow').MlflowClient('sqlite:///mlflow.db'); client.{{}}('{MODEL}', 'champion'{{}})"
    first = "champion" not in finished_clone.run(sys.executable, "-c", aliases_of())
    if first:
        finished_clone.run(sys.executable, "-c", alias.format("set_registered_model_alias", ", '1'"))
    finished_clone.change_params(
        "configs/pocket.yaml", {"max_train_steps": 2, "checkpointing_steps": 2, "num_inference_steps": 2}
    )
    monkeypatch.chdir(finished_clone.folder)
    monkeypatch.syspath_prepend(finished_clone.folder)  # and with it, sys.path is put back
    mark_as_installed(finished_clone)
    yield finished_clone
    finished_clone.run("git", "checkout", "--quiet", "configs/pocket.yaml")
    if first:
        finished_clone.run(sys.executable, "-c", alias.format("delete_registered_model_alias", ""))
    shutil.rmtree(recommended)
    shutil.move(kept, recommended)


def mark_as_installed(person: Clone) -> None:
    """Let `make` take the packages that run this."""
    (person.folder / ".venv").mkdir(exist_ok=True)
    (person.folder / ".venv/.installed").touch()


def aliases_of() -> str:
    return f"print(__import__('mlflow').MlflowClient('sqlite:///mlflow.db').get_registered_model('{MODEL}').aliases)"


@pytest.mark.slow
def test_what_the_documents_print_runs_as_it_is_printed(clone: Clone) -> None:
    """In the order of a reader, in one clone; `tlora` runs in this process, but for training, for it takes seconds to start."""
    ran = []
    for block in blocks():
        if ran and ran[-1] != block.document:
            for folder in OUTPUTS:
                shutil.rmtree(folder, ignore_errors=True)
        for command in block.commands():
            if command.startswith(HERE):
                run_printed(clone, command)
                ran.append(block.document)
    assert {document: ran.count(document) for document in ran} == {
        "README.md": 10,
        "docs/cli.md": 4,
        "docs/data.md": 1,
        "docs/export.md": 8,
        "docs/operations.md": 2,
        "docs/trust.md": 1,
    }
    with Image.open("wall.png") as picture:
        assert picture.size == (64, 64)
    ignored = clone.run("git", "status", "--porcelain", "--untracked-files")
    assert not any(f"?? {folder}" in ignored for folder in (*OUTPUTS, "outputs", "wall.png")), ignored


def run_printed(clone: Clone, command: str) -> None:
    """Run a command or a snippet."""
    if command.startswith("from pathlib"):
        clone.run(sys.executable, "-c", command)
    elif command.startswith("import "):
        Path("snippet.py").write_text(command, encoding="utf-8")
        picture = runpy.run_path("snippet.py")["picture"]
        assert picture.size == (64, 64)
        Path("snippet.py").unlink()
    # the import hook that checks shapes here takes torch.no_grad from generators, so that training would keep the encoders' graph
    elif command.startswith("tlora ") and not command.startswith("tlora train"):
        expanded = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True, check=True).stdout
        main(expanded.rstrip("\0").split("\0")[1:])
    else:
        clone.run("bash", "-euo", "pipefail", "-c", command)


@pytest.mark.slow
def test_the_way_to_ones_own_pictures_runs_as_it_is_printed(finished_clone: Clone, tmp_path: Path) -> None:
    """Straight after the demo: nothing needs replacing, since the shipped pictures are nobody's work."""
    person = Clone(tmp_path / "clone")
    shutil.copytree(finished_clone.folder, person.folder, symlinks=True)
    (tmp_path / "bricks").mkdir()
    for number in range(3):
        texture(number).resize((64, 64)).save(tmp_path / f"bricks/{number}.png")
    person.environment |= {"HOME": str(tmp_path), "EDITOR": "test -s"}
    mark_as_installed(person)
    printed = [command for block in blocks() for command in block.commands() if command.startswith(OWN_PICTURES)]
    assert len(printed) == 4
    for command in printed:
        person.run("bash", "-euo", "pipefail", "-c", command)
    assert sorted(path.name for path in (person.folder / "data/images").iterdir())[:2] == ["0.png", "0.txt"]
