#!/bin/bash
# A nightly schedule of Prefect 3.8.8 at an hour that the zone skips when clocks are put forward.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export PREFECT_HOME=$folder/home DO_NOT_TRACK=1
${PYTHON:-python3.11} -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet prefect==3.8.8 'fastapi<0.151' 'SQLAlchemy==2.0.58'
seen=$("$folder/venv/bin/python" - <<'PYTHON'
import asyncio
from datetime import UTC, datetime
from prefect.server.schemas.schedules import CronSchedule

schedule = CronSchedule(cron="30 2 * * *", timezone="Europe/Berlin")
dates = asyncio.run(schedule.get_dates(n=3, start=datetime(2027, 3, 26, 12, tzinfo=UTC)))
print(" ".join(moment.isoformat() for moment in dates))
PYTHON
)
# Expected: on 2027-03-28, when 02:30 does not exist, 03:00 or 03:30, or none; in any case nothing earlier than asked for
# Seen: 01:30, an hour before
echo "$seen"
[ "$seen" = "2027-03-27T02:30:00+01:00 2027-03-28T01:30:00+01:00 2027-03-29T02:30:00+02:00" ] || { echo "otherwise now"; exit 1; }
