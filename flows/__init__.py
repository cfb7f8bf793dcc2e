"""Prefect only: when, where and what happens on failure. Knows stage names, never tensors.

Prefect reads its settings when it is imported, so those that matter are given here, before any module of this package
can import it: without a server of one's own, Prefect starts one, which takes a loaded machine longer than its 20 seconds.
"""

import os

from tasks.running.loopback import loopback_without_proxy
from tasks.running.telemetry import telemetry_off

telemetry_off()
loopback_without_proxy()
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_ENABLED", "true")
os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "8")  # minutes without the server do not end a run
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
