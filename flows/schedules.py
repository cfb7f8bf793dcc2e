"""Times of schedules that a zone does not have: where clocks are put forward, half past two is missing on one day a year.

Prefect would start such a run an hour early.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from prefect.server.schemas.schedules import CronSchedule

from tlora.errors import SettingsError
from tlora.runtime.settings import read_mapping

DAYS = 400  # a year has all changes of a zone


def require_real_times(file: Path) -> None:
    """Refuse schedules with times that their zone does not have on some day.

    Args:
        file: Such as prefect.yaml.

    Raises:
        SettingsError: Naming the deployment, the time and the day.
    """
    for deployment in read_mapping(file, "a mapping", "").get("deployments", []):
        for schedule in deployment.get("schedules") or []:
            if isinstance(schedule, Mapping) and "cron" in schedule:
                cron, zone = str(schedule["cron"]), str(schedule.get("timezone") or "UTC")
                if missing := missing_times(cron, zone, datetime.now(UTC)):
                    raise SettingsError(
                        f"{file}: deployment {deployment.get('name')!r}: cron '{cron}': there is no {missing[0]:%H:%M} in {zone}"
                        f" on {missing[0]:%Y-%m-%d}, when clocks are put forward: choose another hour, or timezone: UTC"
                    )


def missing_times(cron: str, zone: str, start: datetime) -> list[datetime]:
    """Return the times, by the zone's clocks, that a daily or rarer schedule names within a year and that its zone skips."""
    schedule = CronSchedule(cron=cron, timezone="UTC")
    named = asyncio.run(schedule.get_dates(n=DAYS, start=start, end=start + timedelta(days=DAYS)))
    times = [moment.replace(tzinfo=None) for moment in named]
    a_day = Counter(moment.date() for moment in times)
    place = ZoneInfo(zone)
    return [time for time in times if a_day[time.date()] == 1 and not _exists(time, place)]


def _exists(time: datetime, place: ZoneInfo) -> bool:
    return time.replace(tzinfo=place).astimezone(UTC).astimezone(place).replace(tzinfo=None) == time
