"""Switch off what the frameworks send home, also for people who never go through the Makefile.

Each reads its own variable when it is imported, so this is called before. A value that somebody has set is left alone.
"""

import os

_OFF = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def telemetry_off() -> None:
    """Set the variables that switch telemetry off, for this process and its children."""
    for name, value in _OFF.items():
        os.environ.setdefault(name, value)
