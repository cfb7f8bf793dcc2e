"""A Prefect server that asks for a name and a password: who is told them, and what it means to be turned away."""

import os
from http import HTTPStatus

import httpx

from tlora.errors import SettingsError

CLIENT, SERVER = "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"  # name:password


def shared_login() -> dict[str, str]:
    """Return what a server and its clients are told, where either of them is; empty where the server asks for nothing.

    Raises:
        SettingsError: If they are told different things.
    """
    given = {os.environ[name] for name in (CLIENT, SERVER) if os.environ.get(name)}
    if len(given) > 1:
        raise SettingsError(f"{CLIENT} and {SERVER} differ: set the first alone, the server is told the same")
    return dict.fromkeys((CLIENT, SERVER), given.pop()) if given else {}


def explain(error: httpx.HTTPError) -> str:
    """Return in a line why Prefect did not do what it was asked.

    Example:
        >>> request = httpx.Request("GET", "http://127.0.0.1:4200/api/version")
        >>> explain(httpx.HTTPStatusError("no", request=request, response=httpx.Response(401, request=request)))
        'Prefect at http://127.0.0.1:4200 turns this client away: PREFECT_API_AUTH_STRING (name:password) is wrong or not set'
    """
    if isinstance(error, httpx.HTTPStatusError) and error.response.status_code == HTTPStatus.UNAUTHORIZED:
        where = error.request.url.copy_with(raw_path=b"", userinfo=b"")
        return f"Prefect at {str(where).rstrip('/')} turns this client away: {CLIENT} (name:password) is wrong or not set"
    return f"{type(error).__name__}: {' - '.join(str(error).splitlines())}"
