"""Nightly times in zones with daylight saving: right on both days of change, or refused."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import yaml
from prefect.server.schemas.schedules import CronSchedule

from flows.schedules import missing_times, require_real_times
from tests.clone import ROOT
from tlora.errors import SettingsError

AUTUMN = datetime(2026, 10, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "spring", "autumn"),
    [("Europe/Berlin", "2027-03-28", "2026-10-25"), ("America/New_York", "2027-03-14", "2026-11-01")],
)
def test_three_in_the_morning_is_three_in_the_morning_on_both_days_of_change(zone: str, spring: str, autumn: str) -> None:
    cron = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"][3]["schedules"][0]["cron"]
    dates = asyncio.run(CronSchedule(cron=cron, timezone=zone).get_dates(n=300, start=AUTUMN))
    local = [moment.astimezone(ZoneInfo(zone)) for moment in dates]
    assert {moment.strftime("%H:%M") for moment in local} == {"03:00"}
    days = [moment.strftime("%Y-%m-%d") for moment in local]
    assert (days.count(spring), days.count(autumn), len(set(days))) == (1, 1, 300)
    assert missing_times(cron, zone, AUTUMN) == []


def test_an_hour_that_comes_twice_is_used_once() -> None:
    dates = asyncio.run(CronSchedule(cron="30 2 * * *", timezone="Europe/Berlin").get_dates(n=40, start=AUTUMN))
    assert [moment.isoformat() for moment in dates if moment.strftime("%m-%d") == "10-25"] == ["2026-10-25T02:30:00+02:00"]


@pytest.mark.parametrize(
    ("cron", "zone", "missing"),
    [
        ("30 2 * * *", "Europe/Berlin", [datetime(2027, 3, 28, 2, 30)]),
        ("0 3 * * *", "Europe/Athens", [datetime(2027, 3, 28, 3, 0)]),
        ("30 2 * * 1", "Europe/Berlin", []),  # Mondays have it
        ("30 2 * * *", "UTC", []),
        ("0 * * * *", "Europe/Berlin", []),  # an hour later is soon enough
    ],
)
def test_a_time_that_a_zone_skips_is_found(cron: str, zone: str, missing: list[datetime]) -> None:
    assert missing_times(cron, zone, AUTUMN) == missing


def test_such_a_schedule_is_refused_by_name_and_the_shipped_ones_are_not(tmp_path: Path) -> None:
    require_real_times(ROOT / "prefect.yaml")
    file = tmp_path / "prefect.yaml"
    file.write_text("deployments: [{name: scheduled, schedules: [{cron: '30 2 * * *', timezone: Europe/Berlin}]}]\n")
    with pytest.raises(
        SettingsError,
        match=r"prefect.yaml: deployment 'scheduled': cron '30 2 \* \* \*': there is no 02:30 in Europe/Berlin on 20",
    ):
        require_real_times(file)
