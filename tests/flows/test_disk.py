"""A disk that cannot be written to fails a flow in one line, not by a traceback."""

from pathlib import Path
from typing import Any

import pytest

from flows.measure import measure
from flows.promote import promote, rollback


@pytest.mark.parametrize("flow", [promote, rollback, measure])
def test_a_state_folder_that_cannot_be_made_is_a_failed_run_that_says_so(
    flow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Path("params.yaml").write_text("promote: {}\n")
    Path(".state").write_text("in the way")
    state = flow.fn(model="tlora-pocket-flux-brick")  # the function itself, without Prefect's engine
    assert state.is_failed()
    assert state.message == f"[Errno 17] File exists: '{tmp_path / '.state'}'"
