"""What a training run leaves behind so that it can be killed at any moment and go on to the same bytes.

One folder per fingerprint: the fingerprint's fields, the last few states, every checkpoint and preview so far, and the log.
Whoever runs may lose the outputs in between (DVC deletes them first), so outputs are always rebuilt from here.
"""

import json
import os
import shutil
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tlora.checkpoint import read_state, save_tlora_weights, write_tensors
from tlora.errors import CheckpointError
from tlora.metadata.adapter import WEIGHTS_FILE, AdapterMetadata
from tlora.metadata.digests import FINGERPRINT, digest_of, first_difference
from tlora.runtime.atomic_file import write_json, write_text
from tlora.training.loop import StepReport, Training

PREVIEWS = "previews"


class RunFolder:
    """The state of one training run.

    Args:
        states: Folder of the states of all runs.
        fields: Everything that the result is a function of.
        keep_states: How many of the last states are kept.
        writes: Whether this process writes; of several, only the first does.
        say: Where a line for people goes.
    """

    def __init__(
        self,
        states: Path,
        fields: Mapping[str, Any],
        keep_states: int,
        *,
        writes: bool = True,
        say: Callable[[str], None] = print,
    ) -> None:
        self.fingerprint = digest_of(fields)[:16]
        self.folder = states / self.fingerprint
        self.folder.mkdir(parents=True, exist_ok=True)
        self._others = [p for p in states.iterdir() if p.name != self.fingerprint and (p / FINGERPRINT).exists()]
        self._fields = json.loads(json.dumps(fields))  # as it will be read back: a tuple is a list
        self._keep, self._writes, self._say = keep_states, writes, say
        self.log = self.folder / "log.jsonl"
        self.checkpoints = self.folder / "checkpoints"
        self.previews = self.folder / PREVIEWS

    def resume(self, training: Training) -> None:
        """Continue from the newest state that can be read, saying so, or start afresh, saying why."""
        for file in sorted(self.folder.glob("state-*.safetensors"), reverse=True):
            try:
                training.restore(*read_state(file))
            except (CheckpointError, KeyError, ValueError) as error:
                self._say(f"{file} is damaged ({type(error).__name__}: {error}), passed over")
                continue
            self._say(f"going on from step {training.step} ({file})")
            break
        else:
            self._explain_fresh_start()
        if not self._writes:
            return
        write_json(self.folder / FINGERPRINT, self._fields)
        self._cut_log(training.step)
        self._drop_checkpoints_after(training.step)

    def record(self, report: StepReport, measured: Mapping[str, float] | None = None) -> dict[str, float]:
        """Append a step to the log; return its line.

        Args:
            report: What the step did.
            measured: What was measured of its checkpoint; its line is on the disk before any state of the step is.
        """
        line = {
            "step": report.step,
            "loss": report.loss,
            "learning_rate": report.learning_rate,
            "grad_norm": report.grad_norm,
            "active_rank": report.active_rank,
            "seconds": round(report.seconds, 4),
            "mfu": round(report.mfu, 4),
        }
        if report.preservation is not None:
            line["preservation"] = report.preservation
        line |= measured or {}
        if self._writes:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
                if measured:
                    file.flush()
                    os.fsync(file.fileno())
        return line

    def lines(self) -> list[dict[str, Any]]:
        """Return the steps of the log so far."""
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()] if self.log.exists() else []

    def last_line(self) -> dict[str, float]:
        """Return the last step of the log."""
        return self.lines()[-1]

    def usual_mfu(self) -> float:
        """Return the median over the log's steps: what resuming and warming up cost does not count."""
        return statistics.median(line["mfu"] for line in self.lines())

    def save_state(self, training: Training) -> None:
        """Write a state and drop the oldest beyond those kept."""
        if not self._writes:
            return
        tensors, plain = training.state()
        write_tensors(self.folder / f"state-{training.step:08d}.safetensors", tensors, plain)
        for old in sorted(self.folder.glob("state-*.safetensors"))[: -self._keep]:
            old.unlink()

    def save_checkpoint(self, training: Training, metadata: AdapterMetadata, name: str) -> None:
        """Write an adapter checkpoint."""
        if self._writes:
            with training.weights_to_save() as transformer:
                save_tlora_weights(transformer, self.checkpoints / name / WEIGHTS_FILE, metadata)

    def rebuild(self, adapters: Path, report: Path) -> None:
        """Build the outputs anew, without what another run left there (DVC removes it, a person who runs by hand does not)."""
        for left in (adapters, report / PREVIEWS):
            if self._writes and left.exists():
                shutil.rmtree(left)
        self.publish(adapters, report)

    def publish(self, adapters: Path, report: Path) -> None:
        """Build the outputs: every checkpoint and preview so far, and the log."""
        if not self._writes:
            return
        for folder in sorted(self.checkpoints.glob("*/")):
            target = adapters / folder.name
            if not target.exists():
                temporary = adapters / f".{folder.name}.partial"
                shutil.copytree(folder, temporary, dirs_exist_ok=True)
                temporary.rename(target)
        report.mkdir(parents=True, exist_ok=True)
        if self.log.exists():
            shutil.copyfile(self.log, report / "log.jsonl")
        if self.previews.exists():
            shutil.copytree(self.previews, report / PREVIEWS, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.partial"))

    def _explain_fresh_start(self) -> None:
        if not self._others:
            self._say("starting at step 0")
            return
        last = max(self._others, key=lambda folder: (folder / FINGERPRINT).stat().st_mtime)
        before = json.loads((last / FINGERPRINT).read_text(encoding="utf-8"))
        self._say(f"starting afresh at step 0: {first_difference(before, self._fields)}")

    def _cut_log(self, step: int) -> None:
        """Drop what the log says of steps that will be taken again, and a line that was cut off."""
        if not self.log.exists():
            return
        lines = self.log.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("}\n") and json.loads(line)["step"] <= step]
        write_text(self.log, "".join(kept))

    def _drop_checkpoints_after(self, step: int) -> None:
        for folder in self.checkpoints.glob("*/"):
            name = folder.name.removeprefix("checkpoint-")
            if not name.isdigit() or int(name) > step:
                shutil.rmtree(folder)
