"""`make studio`: the page where a person starts, watches, tries, compares and decides."""

import argparse
import os
import signal
import sys
from contextlib import suppress
from types import FrameType

from flows.addresses import require_port
from studio.uploads import uploads_folder
from tasks.running.loopback import loopback_without_proxy
from tasks.running.telemetry import telemetry_off
from tlora.errors import TloraError

PORT = 7860


def main() -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m studio", description="The page of this project, on this machine alone.")
    parser.add_argument("--port", type=int, default=PORT, help="where it listens; 0 for any free port")
    options = parser.parse_args()
    telemetry_off()
    loopback_without_proxy()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _interrupt)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    for name in [name for name in os.environ if name.startswith("GRADIO_") and name != "GRADIO_ANALYTICS_ENABLED"]:
        del os.environ[name]  # such as GRADIO_SHARE and GRADIO_ALLOWED_PATHS: what is served, and to whom, is said here
    try:
        os.environ["GRADIO_TEMP_DIR"] = str(uploads_folder())  # read when it is imported
        port = require_port(options.port, "PORT", "studio")
        try:
            from studio.page import serve
        except ModuleNotFoundError as error:
            print(f"studio: error: the Python package {error.name!r} is missing: make studio installs it", file=sys.stderr)
            return 2
        serve(port)
    except KeyboardInterrupt:
        return 0
    except (TloraError, OSError) as error:
        print(f"studio: error: {error}", file=sys.stderr)
        return 2
    return 0


def _interrupt(signum: int, frame: FrameType | None) -> None:
    with suppress(OSError):
        print("studio: ends", flush=True)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
