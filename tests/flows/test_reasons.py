"""Is there anything new? On a real DVC repository, a real git remote and a real MLflow store."""

from pathlib import Path

import pytest

from flows.cache import collect_unnamed
from flows.plan import make_plan
from flows.reasons import RetrainSettings, bring_in, find_reasons
from tasks.dvc_command import read_dvc_file, run_dvc
from tasks.registry.promotion import promote_version
from tasks.registry.verdict import Verdict
from tasks.restore_data import restore_data
from tasks.running.git import git as run_git
from tasks.tracking.store import Store, open_store
from tests.flows.kiln import (
    changed_settings,
    dvc,
    fill_kiln,
    git,
    make_repository,
    own_by_others,
    register_present,
    run_everything,
)
from tests.tasks.filled_registry import NAME
from tlora.errors import SettingsError

pytestmark = pytest.mark.slow
SETTINGS = RetrainSettings()


@pytest.fixture
def upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository with tracked data, and a remote that its DVC pushes to."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    folder = tmp_path / "upstream"
    make_repository(folder)
    dvc(folder, "remote", "add", "--default", "team", str(tmp_path / "team"))
    fill_kiln(folder)
    dvc(folder, "push", "--quiet")
    return folder


@pytest.fixture
def kiln(upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a clone of it in which everything has run; the working folder and the store are there."""
    folder = tmp_path / "kiln"
    git(tmp_path, "clone", "--quiet", str(upstream), str(folder))
    dvc(folder, "pull", "--quiet", "data.dvc")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    run_everything()
    return folder


@pytest.fixture
def store(kiln: Path) -> Store:
    """Return the store; its champion was made from what is there."""
    store = open_store()
    register_present(store, "champion")
    return store


def test_nothing_then_pictures_then_settings_then_code_and_base(store: Store, kiln: Path):
    quiet = find_reasons(store, NAME, SETTINGS)
    assert (quiet.reasons, quiet.quiet) == ((), "data, base and settings are those of the champion, version 1")

    (kiln / "train.py").write_text("# other code\n")
    quiet = find_reasons(store, NAME, SETTINGS)
    assert (quiet.reasons, quiet.quiet.split("; ")[1]) == (
        (),
        "only code has changed (train.py modified), and retrain.on_code_change is off",
    )
    assert find_reasons(store, NAME, RetrainSettings(on_code_change=True)).reasons == ("train.py modified",)
    run_git("checkout", "--quiet", "train.py")
    (kiln / "flows/clay/part.py").write_text("# other code\n")
    (kiln / "flows/clay/new.py").write_text("# more code\n")
    assert find_reasons(store, NAME, SETTINGS).reasons == ()
    both = ("flows/clay/new.py modified", "flows/clay/part.py modified")
    assert find_reasons(store, NAME, RetrainSettings(on_code_change=True)).reasons == both
    assert {each.stage: each.why for each in make_plan()}["train"] == ", ".join(both)
    (kiln / "flows/clay/new.py").unlink()
    run_git("checkout", "--quiet", "flows/clay")

    changed_settings(rank=32)
    assert find_reasons(store, NAME, SETTINGS).reasons == ("params.yaml: train.rank 16 -> 32", "train.rank is 32, was 16.0")
    run_everything()  # a run that ended and did not become champion: DVC finds nothing, the champion's run still differs
    assert find_reasons(store, NAME, SETTINGS).reasons == ("train.rank is 32, was 16.0",)
    changed_settings(rank=16)
    run_everything()

    (kiln / "models/kiln/model_index.json").write_text('{"other": 1}')
    (reason,) = find_reasons(store, NAME, SETTINGS).reasons
    assert reason.startswith("the base is at ")


def test_a_changed_working_tree_is_new_data(store: Store, kiln: Path):
    (kiln / "data" / "stone.txt").write_text("stone\n")
    assert "the pictures have changed since data.dvc was written" in find_reasons(store, NAME, SETTINGS).reasons
    dvc(kiln, "commit", "--force", "--quiet", "data.dvc")
    (reason,) = [each for each in find_reasons(store, NAME, SETTINGS).reasons if each.startswith("data.dvc is")]
    assert reason.endswith("version 1's was " + store.client.get_model_version(NAME, "1").tags["data_dvc"][:8])


def test_a_new_commit_upstream_is_new_data_and_parted_histories_are_said(store: Store, kiln: Path, upstream: Path):
    settings = RetrainSettings(git_remote="origin")
    assert bring_in(settings) == []
    (upstream / "data" / "stone.txt").write_text("stone\n")
    dvc(upstream, "add", "--quiet", "data")
    dvc(upstream, "push", "--quiet")
    git(upstream, "commit", "--quiet", "--all", "--message", "a stone")
    (brought,) = bring_in(settings)
    assert brought.startswith("origin/main is at ")
    assert (kiln / "data" / "stone.txt").read_text() == "stone\n"
    assert any(reason.startswith("data.dvc is") for reason in find_reasons(store, NAME, settings).reasons)

    git(kiln, "commit", "--quiet", "--allow-empty", "--message", "mine")
    git(upstream, "commit", "--quiet", "--allow-empty", "--message", "theirs")
    with pytest.raises(SettingsError, match=r"git merge: .*ot possible to fast-forward"):
        bring_in(settings)
    with pytest.raises(SettingsError, match=r"^git push: failed to push some refs to "):
        run_git("push", "--quiet", "origin", "HEAD:main")


@pytest.fixture
def source(kiln: Path, tmp_path: Path) -> Path:
    """Return a repository that others own and the kiln's data is imported from; the champion was made from that."""
    source = tmp_path / "source"
    own_by_others(kiln, source)
    run_everything()
    register_present(open_store(), "champion")
    return source


def put_upstream(source: Path, name: str) -> None:
    (source / "data" / f"{name}.txt").write_text(f"{name}\n")
    dvc(source, "add", "--quiet", "data")
    git(source, "commit", "--quiet", "--all", "--message", name)


def test_an_import_that_is_updated_is_new_data(source: Path, kiln: Path):
    settings = RetrainSettings(update_import=True)
    assert bring_in(settings) == []
    put_upstream(source, "stone")
    assert bring_in(RetrainSettings()) == []
    quiet = find_reasons(open_store(), NAME, SETTINGS)
    assert quiet.reasons == (), "what is new upstream is no work for dvc repro"
    assert [each.what for each in make_plan() if each.stage == "data.dvc"] == ["up to date"]
    assert bring_in(settings) == ["data.dvc was imported anew"]
    assert (kiln / "data" / "stone.txt").exists()
    assert any(reason.startswith("data.dvc is") for reason in find_reasons(open_store(), NAME, settings).reasons)


def test_pictures_in_an_imported_folder_that_no_store_holds_are_never_removed(source: Path, kiln: Path):
    settings = RetrainSettings(update_import=True)
    put_upstream(source, "stone")
    (kiln / "data" / "mine.txt").write_text("mine\n")
    with pytest.raises(SettingsError, match=r"^data/: DVC does not hold data/mine.txt, and data.dvc is an import"):
        bring_in(settings)
    assert (kiln / "data" / "mine.txt").read_text() == "mine\n"
    run_dvc("repro", "--quiet", "data.dvc")  # DVC holds it now, but no commit names it
    held = read_dvc_file(Path("data.dvc"))[1]
    assert bring_in(settings) == ["data.dvc was imported anew"]
    git(kiln, "commit", "--quiet", "--all", "--message", "update")
    collect_unnamed([], dry=False)
    restore_data(held)
    assert (kiln / "data" / "mine.txt").read_text() == "mine\n"


def test_with_the_source_away_all_goes_on_with_the_data_that_is_here(source: Path, kiln: Path, tmp_path: Path):
    source.rename(tmp_path / "away")
    (brought,) = bring_in(RetrainSettings(update_import=True))
    assert brought.startswith("data.dvc is as it was, since where it comes from cannot be read: ")
    assert find_reasons(open_store(), NAME, SETTINGS).reasons == ()
    assert {each.stage: each.what for each in make_plan()} == {
        "data.dvc": "up to date",
        "train": "up to date",
        "register": "runs",
    }
    (kiln / "data" / "mine.txt").write_text("mine\n")
    assert "the pictures have changed since data.dvc was written" in find_reasons(open_store(), NAME, SETTINGS).reasons


def test_new_data_from_git_takes_nothing_with_it_that_dvc_does_not_hold(store: Store, kiln: Path, upstream: Path, tmp_path: Path):
    settings, before = RetrainSettings(git_remote="origin"), run_git("rev-parse", "HEAD")
    put_upstream(upstream, "stone")
    (kiln / "data" / "mine.txt").write_text("mine\n")
    with pytest.raises(SettingsError, match=r"^data/: DVC does not hold data/mine.txt, and a new data.dvc comes from git"):
        bring_in(settings)
    (kiln / "data" / "mine.txt").unlink()
    with pytest.raises(SettingsError, match="dvc pull"):  # nobody has pushed the stone
        bring_in(settings)
    assert run_git("rev-parse", "HEAD") == before, "else the old data would be taken for a change made here"
    assert find_reasons(store, NAME, settings).reasons == ()


def test_what_was_tried_and_refused_is_no_news_again(store: Store, kiln: Path):
    (kiln / "data" / "stone.txt").write_text("stone\n")
    dvc(kiln, "commit", "--force", "--quiet", "data.dvc")
    run_everything()
    register_present(store, "challenger", {"promotion.event": "refused", "promotion.why": "it copies"})
    found = find_reasons(store, NAME, SETTINGS)
    assert (found.reasons, found.quiet) == ((), "version 2 was made from the same, and was refused (it copies)")
    changed_settings(rank=8)
    assert find_reasons(store, NAME, SETTINGS).reasons != ()


def test_a_champion_of_a_branch_is_not_undone_by_the_tree_that_it_came_from(store: Store, kiln: Path):
    git(kiln, "checkout", "--quiet", "-b", "run/e52c")
    changed_settings(rank=32)
    git(kiln, "commit", "--quiet", "--all", "--message", "Override train.rank=32")
    register_present(store, "challenger", {"branch": "run/e52c"})
    git(kiln, "checkout", "--quiet", "main")
    run_everything()
    promote_version(store, Verdict(NAME, "2", "1"), by="ann", run="amber-fox", why="finer joints")
    found = find_reasons(store, NAME, SETTINGS)
    assert (found.reasons, found.quiet) == ((), "version 1 was made from the same, and was champion before")

    (kiln / "data" / "stone.txt").write_text("stone\n")
    found = find_reasons(store, NAME, SETTINGS)
    assert found.reasons == ("the pictures have changed since data.dvc was written",), "what the branch changed is no news"
    assert found.held == (
        "not promoted: the champion, version 2, stands on run/e52c with train.rank=32: keep them with"
        " 'git merge run/e52c && dvc checkout', or give them up with 'make promote'"
    )
    changed_settings(rank=8)  # now somebody here wants otherwise
    assert "train.rank is 8, was 32.0" in find_reasons(store, NAME, SETTINGS).reasons
    run_git("checkout", "--quiet", "params.yaml")
    git(kiln, "merge", "--quiet", "run/e52c")
    assert find_reasons(store, NAME, SETTINGS).held == ""


def test_a_first_version_is_always_worth_making(kiln: Path):
    assert find_reasons(open_store(), NAME, SETTINGS).reasons == ("there is no version yet",)
