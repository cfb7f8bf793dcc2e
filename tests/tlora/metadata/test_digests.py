"""A code digest follows a module's imports and nothing else."""

from pathlib import Path

import pytest

from tlora.metadata.digests import code_digest


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in which `top` imports `helper`, and `shown`; `stranger` is imported by nobody."""
    folder = tmp_path / "someones"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "inner/__init__.py").write_text("")
    (folder / "top.py").write_text("import json\nfrom someones.inner.helper import work\nfrom someones import shown\n")
    (folder / "inner/helper.py").write_text("def work(): ...\n")
    (folder / "shown.py").write_text("")
    (folder / "stranger.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


@pytest.mark.parametrize(
    ("changed", "counts"),
    [("top.py", True), ("inner/helper.py", True), ("inner/__init__.py", False), ("stranger.py", False), ("shown.py", False)],
)
def test_it_changes_with_what_is_imported_and_counts(package: Path, changed: str, counts: bool):
    before = code_digest("someones.top", ["someones"], ["someones.shown"])
    with (package / changed).open("a") as file:
        file.write("# changed\n")
    assert (code_digest("someones.top", ["someones"], ["someones.shown"]) != before) == counts
