"""What serves this repository is on this machine, and is never asked through a proxy, whatever the environment says of others."""

import os

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def loopback_without_proxy() -> None:
    """Except this machine's own addresses from proxies, for this process and its children."""
    everything = with_loopback(os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "")
    os.environ |= {"NO_PROXY": everything, "no_proxy": everything}  # some read the one, some the other


def with_loopback(excepted: str) -> str:
    """Return a list of hosts with this machine's own addresses added.

    Example:
        >>> with_loopback("kiln.example")
        'kiln.example,localhost,127.0.0.1,::1'
    """
    names = [name for name in excepted.split(",") if name]
    return ",".join([*names, *(name for name in _LOOPBACK if name not in names)])
