"""`python -m benchmarks.racing`: what the race would have drawn and recommended in runs that were evaluated in full, as a table.

The scores of these runs are kept beside this file. `--run` does the runs whose scores are missing, each a training and a full
evaluation, minutes on two cores; stopped and started again, it goes on with the next one.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.racing.replay import Replay, keep_scores, read_scores, replay
from benchmarks.racing.runs import all_runs, run_stages
from tasks.evaluate.settings import EvaluateSettings
from tasks.running.cli import read_section
from tasks.running.state_folder import state_folder
from tasks.running.telemetry import telemetry_off
from tlora.runtime.settings import parse_settings

SCORES = Path(__file__).with_name("scores.json")


def main(arguments: Sequence[str] | None = None) -> None:
    """Do the runs that are missing, where that is wanted, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.racing", description=__doc__)
    parser.add_argument("--run", action="store_true", help="first do the runs whose scores are missing")
    parser.add_argument("--smoke", action="store_true", help="one run alone, to see it replayed")
    given = parser.parse_args(arguments)
    if given.run:
        telemetry_off()
        work = state_folder("racing")
        for run in all_runs():
            if run.name not in read_scores(SCORES):
                run_stages(run, work)
                keep_scores(SCORES, run.name, run.scores(work))
                print(f"racing: {run.name} is done", flush=True)
    print(race_table(replays(Path("params.yaml"), most=1 if given.smoke else None)))


def replays(params: Path, most: int | None = None) -> dict[str, Replay]:
    """Return what became of every run that is kept, or of the first ones, by the settings of params.yaml."""
    settings = parse_settings(EvaluateSettings, read_section(params, "evaluate"), f"{params}: evaluate")
    runs, strengths = read_scores(SCORES), len(settings.scales)
    return {name: replay(run, settings.selection, settings.racing, strengths) for name, run in list(runs.items())[:most]}


def race_table(found: Mapping[str, Replay]) -> str:
    """Return a row per run: whom either recommends, pictures of each checkpoint, and the share that was drawn."""
    lines = ["| run | full evaluation | race | pictures of each checkpoint | share drawn |", "|---|---|---|---|---|"]
    for name, run in found.items():
        counts = " ".join(str(count) for count in run.checkpoints.values())
        raced = f"{_step(run.raced)}{'' if run.raced == run.full else ', not told apart' if run.agrees else ', another'}"
        lines.append(f"| {name} | {_step(run.full)} | {raced} | {counts} | {run.share:.3f} |")
    agree, share = sum(run.agrees for run in found.values()), np.mean([run.share for run in found.values()])
    return "\n".join([*lines, f"| all | | {agree} of {len(found)} agree | | {share:.3f} |"])


def _step(checkpoint: str | None) -> str:
    return f"step {int(checkpoint.rsplit('-', 1)[1])}" if checkpoint else "none"


if __name__ == "__main__":
    main()
