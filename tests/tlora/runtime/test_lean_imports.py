"""What commands import within `lean_imports` finds no package that none of them uses; whatever is imported later does."""

import gc
import importlib.util
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from tlora.runtime.lean_imports import NEVER_NEEDED_AT_IMPORT, lean_imports


def test_packages_that_no_command_needs_are_not_found_within_and_are_found_after():
    before = list(sys.meta_path)
    with lean_imports():
        assert [name for name in NEVER_NEEDED_AT_IMPORT - sys.modules.keys() if importlib.util.find_spec(name)] == []
        assert importlib.util.find_spec("numpy") is not None
    assert importlib.util.find_spec("peft") is not None
    assert sys.meta_path == before


def test_more_packages_can_be_named_and_an_error_leaves_python_as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "not_wanted.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_wanted"), lean_imports("not_wanted"):
        import not_wanted
    assert PathFinder in sys.meta_path
    import not_wanted

    assert not_wanted.__file__ == str(tmp_path / "not_wanted.py")


def test_no_garbage_is_looked_for_within_and_it_is_as_before_after():
    with lean_imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with lean_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
