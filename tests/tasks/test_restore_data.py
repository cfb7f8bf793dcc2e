"""Going back to earlier data with real Git and DVC: what is not kept anywhere is never overwritten."""

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.dvc_command import read_dvc_file, run_dvc
from tasks.restore_data import digest_of_version, main, restore_data
from tasks.tracking.store import TrackingError, open_store
from tlora.errors import PictureError

pytestmark = pytest.mark.slow


def git(*arguments: str) -> None:
    who = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *who, *arguments], check=True, capture_output=True)


def record(caption: str, *, commit: bool) -> str:
    """Write a caption, add the folder to DVC, and return the digest."""
    Path("data/images/a.txt").write_text(caption)
    run_dvc("add", "--quiet", "data")
    if commit:
        git("add", "-A")
        git("commit", "-qm", caption)
    return read_dvc_file(Path("data.dvc"))[1]


def caption() -> str:
    return Path("data/images/a.txt").read_text()


def test_data_goes_back_and_forth_by_digest_and_nothing_unkept_is_overwritten(
    store_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["git", "init", "--quiet"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], check=True)
    Path(".gitignore").write_text("/mlflow.db*\n/mlruns\n/.state\n/remote\n/data\n")
    Path("concept.yaml").write_text("name: brick\ntrigger: matbrk\nprompts: [a matbrk wall]\n")
    Path("data/images").mkdir(parents=True)
    first = record("a wall", commit=True)
    Path("concept.yaml").write_text("name: brick\ntrigger: matbrk\nprompts: [a matbrk floor]\n")
    second = record("a floor", commit=True)
    of_second = Path("data.dvc").read_bytes()

    assert restore_data(second) == f"data/ is that version already ({second})"
    said = restore_data(first[:10])
    assert caption() == "a wall"
    assert said.startswith(f"data/ is back at {first}\n  concept.yaml has changed since; to have it as it was: git checkout ")
    assert restore_data(second) == f"data/ is back at {second}"
    assert (caption(), Path("data.dvc").read_bytes()) == ("a floor", of_second)

    Path("data/images/a.txt").write_text("by hand, an hour's work")
    with pytest.raises(PictureError, match=r"^data/: has changes that DVC does not hold yet: first 'dvc add data'"):
        restore_data(first)
    third = record("by hand, an hour's work", commit=False)
    with pytest.raises(PictureError, match=r"^data\.dvc: no commit holds it, .* first 'git commit data\.dvc'$"):
        restore_data(first)
    assert caption() == "by hand, an hour's work"
    git("checkout", "--quiet", "data.dvc")
    run_dvc("checkout", "--quiet", "data.dvc")
    assert restore_data(third) == f"data/ is back at {third}"  # never committed: DVC alone still holds it
    assert "nfiles: 1" in Path("data.dvc").read_text()
    git("add", "-A")
    git("commit", "-qm", "third")

    with pytest.raises(PictureError, match=r"^0123abcd: no commit's data\.dvc has this digest: see 'git log data\.dvc'"):
        restore_data("0123abcd")
    now = Path("data.dvc").read_bytes()
    nowhere = f"{'0' * 32}.dir"
    assert main(["--digest", nowhere]) == 2
    error = capsys.readouterr().err
    assert error.startswith("restore: error: 'dvc pull --quiet data.dvc' in ")
    assert error.count("\n") == 1
    assert (caption(), Path("data.dvc").read_bytes()) == ("by hand, an hour's work", now)

    client = open_store().client
    client.create_registered_model("tlora-pocket-flux-brick")
    version = client.create_model_version("tlora-pocket-flux-brick", "file:///nowhere", tags={"data_dvc": first})
    client.set_registered_model_alias("tlora-pocket-flux-brick", "champion", version.version)
    model = "{path: models/pocket-flux, revision: '', dtype: float32, device: cpu, quantisation: none}"
    Path("params.yaml").write_text(f"model: {model}\n")
    assert digest_of_version("champion") == digest_of_version("1") == first
    with pytest.raises(TrackingError, match="tlora-pocket-flux-brick: no version 'previous' in the MLflow store"):
        digest_of_version("previous")
    assert main(["--version", "champion"]) == 0
    assert caption() == "a wall"
