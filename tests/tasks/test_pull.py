"""What `make pull` fills: models that are shipped, data from wherever they are kept; on real DVC."""

import shutil
from pathlib import Path

import pytest

from tasks.dvc_command import run_dvc
from tasks.pull import pull
from tlora.errors import SettingsError


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a tree in which a model is shipped, and data is a team's own and has not been pushed anywhere yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    run_dvc("init", "--no-scm", "--quiet")
    run_dvc("remote", "add", "shipped", str(tmp_path / "shipped"))
    for folder in ("models/pocket-flux", "data"):
        Path(folder).mkdir(parents=True)
        Path(folder, "a.txt").write_text(folder)
        run_dvc("add", "--quiet", folder)
    run_dvc("push", "--quiet", "--remote", "shipped", "models/pocket-flux.dvc")
    return tmp_path


def test_what_is_shipped_comes_also_where_the_data_cannot_be_had_and_that_is_said(team: Path):
    for folder in ("models/pocket-flux", "data"):
        shutil.rmtree(folder)
    shutil.move(".dvc/cache", "kept")
    with pytest.raises(SettingsError, match=r"^data.dvc: not shipped here, .*'dvc remote add --default team"):
        pull()
    assert Path("models/pocket-flux/a.txt").exists()
    shutil.rmtree(".dvc/cache")
    shutil.move("kept", ".dvc/cache")
    run_dvc("remote", "add", "--quiet", "--default", "team", "store")
    run_dvc("push", "--quiet", "data.dvc")
    shutil.rmtree(".dvc/cache")
    assert pull() == ["data"]
    assert Path("data/a.txt").read_text() == "data"


def test_a_folder_that_is_there_is_left_alone(team: Path):
    Path("data/mine.txt").write_text("mine")
    assert pull() == []
    Path(".state").mkdir(exist_ok=True)
    Path(".state/pulling").write_text("models/pocket-flux.dvc\n")
    assert pull() == ["models/pocket-flux"]
    assert Path("data/mine.txt").read_text() == "mine"
