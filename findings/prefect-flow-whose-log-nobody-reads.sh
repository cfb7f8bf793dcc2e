#!/bin/bash
# A flow of Prefect 3.8.8 whose console is a pipe that nobody reads any more (its worker was killed) ends at its next line of log:
# rich raises SystemExit there, which the flow takes for its own wish.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export PREFECT_HOME=$folder/home DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false NO_PROXY=127.0.0.1
export PREFECT_SERVER_EPHEMERAL_ENABLED=true PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS=180
${PYTHON:-python3.11} -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet prefect==3.8.8 'fastapi<0.151' 'SQLAlchemy==2.0.58'
cat >"$folder/wall.py" <<'PYTHON'
import sys, time
from prefect import flow, get_run_logger

@flow
def wall():
    try:
        for brick in range(20):
            get_run_logger().info("brick %d", brick)
            time.sleep(0.2)
        ended = "built"
    except SystemExit as error:
        ended = f"SystemExit({error.code})"
        raise
    finally:
        open(sys.argv[1], "w").write(ended)

wall()
PYTHON
("$folder/venv/bin/python" "$folder/wall.py" "$folder/ended" 2>&1 || true) | grep -m1 "brick 3" >/dev/null
for _ in $(seq 60); do [ -s "$folder/ended" ] && break; sleep 0.5; done
# Expected: built   (a handler of logging that fails prints so, and the program goes on)
# Seen: SystemExit(1)
cat "$folder/ended"; echo
[ "$(cat "$folder/ended")" = "SystemExit(1)" ] || { echo "otherwise now"; exit 1; }
