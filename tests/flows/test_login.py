"""A Prefect server and its clients are told one login, or are asked which."""

import pytest

from flows.login import CLIENT, SERVER, shared_login
from tlora.errors import SettingsError


@pytest.mark.parametrize("told", [CLIENT, SERVER])
def test_whoever_is_told_the_other_is_told_the_same(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    for name in (CLIENT, SERVER):
        monkeypatch.delenv(name, raising=False)
    assert shared_login() == {}
    monkeypatch.setenv(told, "mason:trowel")
    assert shared_login() == {CLIENT: "mason:trowel", SERVER: "mason:trowel"}


def test_two_logins_are_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CLIENT, "mason:trowel")
    monkeypatch.setenv(SERVER, "mason:plumb")
    with pytest.raises(SettingsError, match=r"^PREFECT_API_AUTH_STRING and PREFECT_SERVER_API_AUTH_STRING differ: [^\n:]+$"):
        shared_login()
