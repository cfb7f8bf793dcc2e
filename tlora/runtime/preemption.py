"""A request to stop, by SIGTERM or SIGINT, that is met at the end of a step."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

PREEMPTED = 75  # EX_TEMPFAIL: run it again and it goes on where it was


class Preempted(Exception):
    """Somebody asked to stop, and what is needed to go on is saved."""


@dataclass
class StopRequest:
    """Whether somebody has asked to stop."""

    is_made: bool = False


@contextmanager
def asked_to_stop(say: Callable[[str], None]) -> Iterator[StopRequest]:
    """Turn the first SIGTERM or SIGINT into a request that a loop looks at; a second one stops at once.

    Args:
        say: Where the line goes that a request has come.
    """
    request = StopRequest()

    def ask(signum: int, frame: FrameType | None) -> None:
        request.is_made = True
        signal.signal(signum, signal.SIG_DFL)
        say("asked to stop, finishing this step")

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
