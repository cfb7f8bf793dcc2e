"""Whether the base model can be had is said in one line, before any weight is loaded."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from tlora.errors import ModelError
from tlora.flux.files import base_revision, is_same_base, require_base
from tlora.flux.spec import FluxShape, HubBase, ModelSpec
from tlora.runtime.disk import require_free_space


@pytest.fixture(autouse=True)
def no_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without a hub cache and without a token."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "hub-home" / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub-home" / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_without_a_pipeline_is_named(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with pytest.raises(ModelError, match="models/no-such: no base model there"):
        require_base(ModelSpec("models/no-such"))


def test_a_gated_model_without_a_token_names_the_licence_page_and_the_token() -> None:
    with pytest.raises(ModelError, match=r"https://huggingface.co/black-forest-labs/FLUX.1-dev .* HF_TOKEN"):
        require_base(ModelSpec("black-forest-labs/FLUX.1-dev"))


def test_too_little_disk_for_a_download_names_hf_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "planted")
    monkeypatch.setattr("tlora.flux.files.hub_base", lambda path: HubBase(FluxShape(), 1e18, is_gated=True))
    with pytest.raises(ModelError, match=r"GB free, .* set HF_HOME"):
        require_base(ModelSpec("black-forest-labs/FLUX.1-dev"))


def test_a_model_that_only_draws_needs_no_room_for_its_text_encoders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("tlora.runtime.disk.shutil.disk_usage", lambda path: SimpleNamespace(free=9e9))
    klein = ModelSpec("black-forest-labs/FLUX.2-klein-4B")
    with pytest.raises(ModelError, match=r"9\.0 GB free, 16\.0 GB needed"):
        require_base(klein)
    require_base(klein, encodes=False)
    monkeypatch.setattr("tlora.runtime.disk.shutil.disk_usage", lambda path: SimpleNamespace(free=7e9))
    with pytest.raises(ModelError, match=r"7\.0 GB free, 8\.2 GB needed"):
        require_base(klein, encodes=False)


def test_a_model_that_is_in_the_hub_cache_needs_neither(no_hub_cache: Path) -> None:
    snapshot = no_hub_cache / "hub-home/hub/models--black-forest-labs--FLUX.1-dev/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model_index.json").write_text("{}")
    require_base(ModelSpec("black-forest-labs/FLUX.1-dev", revision="abc"))


def test_free_space_is_measured_at_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    require_free_space(tmp_path / "not" / "yet" / "there", 1.0, "buy a disk")
    with pytest.raises(ModelError, match="buy a disk"):
        require_free_space(tmp_path, 1e18, "buy a disk")


def test_a_digest_changes_with_a_byte_and_not_with_a_readme(tmp_path: Path) -> None:
    (tmp_path / "base/vae").mkdir(parents=True)
    weights = tmp_path / "base/vae/weights"
    weights.write_text("1")
    before = base_revision(ModelSpec("base"), "vae")
    (tmp_path / "base/vae/README.md").write_text("about")
    assert base_revision(ModelSpec("base"), "vae") == before
    weights.write_text("2")
    assert base_revision(ModelSpec("base"), "vae") != before


def test_a_base_on_the_hub_is_told_by_its_commit_whether_that_was_asked_for_or_found_here(no_hub_cache: Path) -> None:
    name = "black-forest-labs/FLUX.1-dev"
    assert base_revision(ModelSpec(name, revision="3de6")) == "3de6"
    assert base_revision(ModelSpec(name)) == f"{name}@main"  # there is none here
    reference = no_hub_cache / "hub-home/hub/models--black-forest-labs--FLUX.1-dev/refs/main"
    reference.parent.mkdir(parents=True)
    reference.write_text("3de6")
    (reference.parents[1] / "snapshots/3de6").mkdir(parents=True)
    (reference.parents[1] / "snapshots/3de6/model_index.json").write_text("{}")
    assert base_revision(ModelSpec(name)) == "3de6"


@pytest.mark.parametrize(
    ("revision", "base", "other", "is_same"),
    [
        ("3de6", "owner/flux", "3de6", True),
        ("3de6", "owner/flux", "owner/flux@3de6", True),
        ("3de6", "owner/flux", "owner/flux@main", True),  # no commit to hold against it
        ("3de6", "owner/flux", "", True),
        ("owner/flux@main", "owner/flux", "owner/flux@3de6", True),
        ("3de6", "owner/flux", "4ef7", False),
        ("3de6", "owner/flux", "owner/flux@4ef7", False),
        ("3de6", "owner/other", "owner/other@main", False),
        ("3de6", "a/folder/of/the/same/files", "3de6", True),
    ],
)
def test_revisions_are_compared_by_commit_in_whichever_form_they_were_recorded(
    revision: str, base: str, other: str, is_same: bool
) -> None:
    assert is_same_base("owner/flux", revision, base, other) is is_same
    assert is_same_base(base, other, "owner/flux", revision) is is_same
