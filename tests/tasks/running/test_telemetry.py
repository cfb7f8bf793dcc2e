import os

import pytest

from tasks.running.telemetry import telemetry_off


def test_telemetry_is_switched_off_unless_somebody_chose_otherwise(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "environ", {"DO_NOT_TRACK": "0"})
    telemetry_off()
    assert os.environ == {
        "DO_NOT_TRACK": "0",
        "DVC_NO_ANALYTICS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
