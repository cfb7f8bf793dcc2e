"""How far a stage is, on the run's page: an artifact that follows the lines which `tlora.runtime.progress` prints.

A convenience: a server that is away while a stage runs costs a line, not the stage.
"""

import re
from collections.abc import Callable
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

_LINE = re.compile(r"(?P<what>[^:]+): (?P<done>\d+)/(?P<total>\d+) (?P<note>.*)")


class ProgressArtifact:
    """The progress of one stage.

    Args:
        stage: Its name.
        log: Called with each line that is heard.
    """

    def __init__(self, stage: str, log: Callable[[str], None]) -> None:
        self._stage, self._log = stage, log
        self._artifact: UUID | None = None

    def hear(self, line: str) -> None:
        """Log a line of the stage, and show it if it tells of progress."""
        self._log(line)
        if (seen := read_progress(line)) is None:
            return
        percent, words = seen
        try:
            if self._artifact is None:
                key = f"{self._stage.replace('_', '-')}-progress"
                artifact = create_progress_artifact(percent, key=key, description=words)
                assert isinstance(artifact, UUID)  # in a flow that is not async, this is no coroutine
                self._artifact = artifact
            else:
                update_progress_artifact(self._artifact, percent, description=words)
        except (httpx.HTTPError, PrefectException) as error:
            self._log(f"progress of {self._stage} could not be shown: {type(error).__name__}")


def read_progress(line: str) -> tuple[float, str] | None:
    """Return how far a line says that its stage is, in percent and in words; None where it says nothing of it.

    Example:
        >>> read_progress("train: 50/200 loss 0.4312 0.31 s each, 46 s left")
        (25.0, 'train: step 50 of 200, loss 0.4312 0.31 s each, 46 s left')
    """
    match = _LINE.fullmatch(line)
    if match is None or int(match["total"]) == 0:
        return None
    words = f"{match['what']}: step {match['done']} of {match['total']}, {match['note'].strip()}"
    return min(100.0, 100 * int(match["done"]) / int(match["total"])), words
