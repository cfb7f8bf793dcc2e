"""`python -m flows.watch`: how far training is, read from the files that it writes, whoever started it."""

import argparse
import json
import statistics
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tasks.running.state_folder import repository_root, state_folder
from tlora.metadata.digests import FINGERPRINT

PREVIEWS = "previews"
FRESH_SECONDS = 120.0  # a log that nobody has written to for longer is of a run that stands still or has ended
_FEW_STEPS = 20  # the pace is that of the last ones


@dataclass(frozen=True)
class Training:
    """A training run as its files show it.

    Args:
        step: The last one that was taken.
        steps: How many there are to be; 0 where that is not known.
        losses: Step and loss, of every step.
        seconds_left: At the pace of the last steps; None where that is not known.
        previews: Step and picture, the earliest first.
        memory: Bytes that the training process holds now; 0 where none runs.
        moving: Whether it has written lately.
    """

    step: int
    steps: int
    losses: tuple[tuple[int, float], ...]
    seconds_left: float | None
    previews: tuple[tuple[int, Path], ...]
    memory: int
    moving: bool

    def line(self) -> str:
        """Return it in a line."""
        of = f" of {self.steps}" if self.steps else ""
        loss = f", loss {self.losses[-1][1]:.4f}" if self.losses else ""
        left = f", about {self.seconds_left:.0f} s left" if self.moving and self.seconds_left else ""
        held = f", {self.memory / 1e9:.1f} GB of memory" if self.memory else ""
        return f"step {self.step}{of}{loss}{left}{held}"


def watch_training() -> Training | None:
    """Return the run whose log was written to last; None if there is none."""
    logs = sorted(state_folder("train").glob("*/log.jsonl"), key=lambda log: log.stat().st_mtime)
    if not logs:
        return None
    log, lines = logs[-1], []
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:  # the last one, which is being written
            break
    steps = _steps_of(log.with_name(FINGERPRINT))
    step = int(lines[-1]["step"]) if lines else 0
    pace = statistics.median(float(line["seconds"]) for line in lines[-_FEW_STEPS:]) if lines else None
    left = pace * (steps - step) if pace is not None and steps else None
    pictures = sorted((log.parent / PREVIEWS).glob("step-*.png"))
    previews = tuple((int(picture.stem.removeprefix("step-")), picture) for picture in pictures)
    losses = tuple((int(line["step"]), float(line["loss"])) for line in lines)
    moving = time.time() - log.stat().st_mtime < FRESH_SECONDS and step != steps
    return Training(step, steps, losses, left, previews, _memory(), moving)


def _steps_of(fingerprint: Path) -> int:
    """Return how many steps a run has, wherever among its settings that stands."""
    try:
        return int(_find(json.loads(fingerprint.read_text(encoding="utf-8")), "max_train_steps") or 0)
    except (OSError, ValueError):
        return 0


def _find(plain: Any, key: str) -> Any:
    if not isinstance(plain, dict):
        return None
    return (
        plain[key] if key in plain else next((found for each in plain.values() if (found := _find(each, key)) is not None), None)
    )


def _memory() -> int:
    """Return what the training process that runs here holds."""
    here = str(repository_root())
    for process in psutil.process_iter(["cmdline", "cwd"]):
        if "tasks.train" in (process.info["cmdline"] or ()) and str(process.info["cwd"]).startswith(here):
            with suppress(psutil.Error):
                return int(process.memory_info().rss)
    return 0


def main() -> int:
    """Run the command and return its exit status."""
    argparse.ArgumentParser(prog="python -m flows.watch", description="How far training is, from its files.").parse_args()
    training = watch_training()
    print(f"watch: {training.line()}" if training else "watch: nothing has trained here yet")
    return 0


if __name__ == "__main__":
    sys.exit(main())
