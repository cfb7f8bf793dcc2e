"""A flow as a command: run once, here; its end is one line and an exit status."""

import sys
from collections.abc import Callable
from typing import Any

from httpx import HTTPError
from prefect import State

from flows.login import explain


def run_once(name: str, flow: Callable[[], State[Any]]) -> int:
    """Run a flow, say what became of it, and return the exit status.

    Args:
        name: What the line begins with.
        flow: Returns its state, whatever that is.
    """
    try:
        state = flow()
    except KeyboardInterrupt:  # on SIGTERM Prefect lets a stage be stopped too, then dies of the signal itself
        print(f"{name}: stopped", file=sys.stderr)
        return 130
    except RuntimeError as error:  # no server: the body's own troubles come back as a state
        print(f"{name}: error: {error}", file=sys.stderr)
        return 1
    except HTTPError as error:  # a server that does not let this client in
        print(f"{name}: error: {explain(error)}", file=sys.stderr)
        return 1
    done = state.is_completed()
    print(f"{name}: {'' if done else 'error: '}{state.message}", file=sys.stdout if done else sys.stderr)
    return 0 if done else 1
