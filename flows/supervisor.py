"""Runs a command for as long as somebody holds the other end of its standard input; then asks it to stop, in good order.

A flow that is killed with -9 can stop nothing any more, and a stage that nobody waits for would go on for hours, beside the
next run. The kernel closes a dead flow's end of the pipe, however it died. The command's output passes through here, so that
a stage that says "saving" to nobody does not die of it. A file of the standard library alone, run by its path: it costs every
stage its start.
"""

import os
import signal
import subprocess
import sys
import threading
import time


def keep(grace_seconds: float, command: list[str]) -> int:
    """Run a command in this process's group, pass its output on, and return its exit code once all of it is gone.

    Args:
        grace_seconds: How long it may take to save its work before it is killed.
        command: What to run.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signum, frame: None)  # meant for the command, which does not inherit a handler
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    threading.Thread(target=_stop_when_left_alone, args=(grace_seconds,), daemon=True).start()
    assert child.stdout is not None  # it is a pipe
    heard = True
    while output := os.read(child.stdout.fileno(), 1 << 16):
        if heard:
            heard = _pass_on(output)
    return child.wait()


def _stop_when_left_alone(grace_seconds: float) -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.killpg(0, signal.SIGTERM)
    time.sleep(grace_seconds)
    os.killpg(0, signal.SIGKILL)


def _pass_on(output: bytes) -> bool:
    """Write it out; return whether anybody still listens."""
    try:
        while output:
            output = output[os.write(sys.stdout.fileno(), output) :]
    except BrokenPipeError:
        return False
    return True


if __name__ == "__main__":
    if len(sys.argv) < 3 or not sys.argv[1].replace(".", "", 1).isdecimal():
        print("usage: python flows/supervisor.py GRACE_SECONDS COMMAND...", file=sys.stderr)
        sys.exit(0 if sys.argv[1:] in (["-h"], ["--help"]) else 2)
    code = keep(float(sys.argv[1]), sys.argv[2:])
    sys.exit(code if code >= 0 else 128 - code)
