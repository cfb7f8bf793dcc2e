#!/bin/bash
# Prefect 3.8.8 admits SQLAlchemy 2.1. With it the server is healthy and shows a schedule as active, and its scheduler fails at every pass:
# no run is ever planned. With SQLAlchemy 2.0.58 three runs are planned within seconds.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null || true; rm -rf "$folder"' EXIT
export PREFECT_HOME=$folder/home DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false NO_PROXY=127.0.0.1
${PYTHON:-python3.11} -m venv "$folder/venv"
python=$folder/venv/bin/python
"$python" -m pip install --quiet prefect==3.8.8 'fastapi<0.151' aiosqlite==0.22.1

planned() { # SQLALCHEMY_VERSION PORT -> how many runs of an active schedule are planned within 30 s
    "$python" -m pip install --quiet "SQLAlchemy==$1"
    "$python" -m prefect server start --host 127.0.0.1 --port "$2" >"$folder/log-$1" 2>&1 &
    server=$!
    PREFECT_API_URL=http://127.0.0.1:$2/api "$python" - <<'PYTHON'
import os, time, urllib.request
for _ in range(240):
    try:
        urllib.request.urlopen(os.environ["PREFECT_API_URL"] + "/health")
        break
    except OSError:
        time.sleep(0.5)
from datetime import timedelta
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import IntervalSchedule

with get_client(sync_client=True) as client:
    daily = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(days=1)), active=True)
    deployment = client.create_deployment(client.create_flow_from_name("wall"), "daily", schedules=[daily])
    for _ in range(30):
        if runs := client.read_flow_runs():
            break
        time.sleep(1)
    (schedule,) = client.read_deployment(deployment).schedules
    print(f"active: {schedule.active}, planned: {len(runs)}")
    client.delete_deployment(deployment)
PYTHON
    kill "$server"
    wait "$server" || true
}

# Expected: active: True, planned: 3   (by both: prefect 3.8.8 asks for SQLAlchemy >=2.0,<3)
old=$(planned 2.0.58 4391)
echo "SQLAlchemy 2.0.58: $old"
new=$(planned 2.1.9 4392)
echo "SQLAlchemy 2.1.9: $new"
# Seen: active: True, planned: 0   (by 2.1.9)
[ "$old" = "active: True, planned: 3" ] || { echo "2.0.58 no longer plans three"; exit 1; }
[ "$new" = "active: True, planned: 0" ] || { echo "2.1.9 behaves otherwise now"; exit 1; }
grep -m1 -iE "sqlalchemy|error" "$folder/log-2.1.9" || true
