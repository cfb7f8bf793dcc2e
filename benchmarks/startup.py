"""What each command spends before its first useful work, and what `dvc repro` costs when there is nothing to do.

The first is a process that imports the command and ends. The second needs a finished pipeline (`make demo`): `register` runs
every time, and what DVC takes beside it is the difference.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.measure import machine, ratio, take_turns
from tlora.runtime.yaml_text import parse_yaml

STAGES = ("validate", "cache_prompts", "cache_latents", "train", "evaluate", "register")
BARE = "bare Python"
COMMANDS = {
    BARE: ("-c", "pass"),
    **{f"tasks.{stage}": ("-c", f"import tasks.{stage}") for stage in STAGES},
    "tasks.new": ("-c", "import tasks.new"),
    "flows.plan": ("-c", "import flows.plan"),
    "flows.promote": ("-c", "import flows.promote"),
    "tlora --help": ("-m", "tlora.cli", "--help"),
}
WANTED = 3  # seconds, of `dvc repro` beside register


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=main.__doc__)
    parser.add_argument("--smoke", action="store_true", help="the light commands once, and no DVC")
    smoke = parser.parse_args(arguments).smoke
    light = (BARE, "tasks.validate", "tasks.register", "tlora --help")
    commands = {name: (sys.executable, *given) for name, given in COMMANDS.items() if not smoke or name in light}
    seconds = take_turns(_processes(commands), rounds=1 if smoke else 7)
    print(f"{machine()}\n\n| until it can begin | ms | times bare Python |\n| --- | --- | --- |")
    for name, times in seconds.items():
        print(f"| {name} | {statistics.median(times) * 1e3:.0f} | {ratio(seconds, name, BARE):.0f} |")
    if not smoke:
        _print_nothing_to_do()


def _print_nothing_to_do() -> None:
    if stale := _stale():
        print(f"\n`dvc repro` with nothing to do: not measured, {stale}: run `make demo` first")
        return
    register = " ".join(parse_yaml(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]["register"]["cmd"].split())
    seconds = take_turns(_processes({"dvc repro": ("dvc", "repro"), "register alone": tuple(register.split())}), rounds=7)
    beside = statistics.median(a - b for a, b in zip(seconds["dvc repro"], seconds["register alone"], strict=True))
    print("\n| nothing to do | s |\n| --- | --- |")
    for name, times in seconds.items():
        print(f"| {name} | {statistics.median(times):.2f} |")
    print(f"| difference (at most {WANTED} wanted) | {beside:.2f} |")


def _stale() -> str:
    """Return what would run besides register, in words; a benchmark must not start a training."""
    if not Path("dvc.lock").exists():
        return "there is no dvc.lock"
    told = subprocess.run(["dvc", "status", "--json"], env=_environment(), stdout=subprocess.PIPE, text=True, check=True)
    stages = sorted(json.loads(told.stdout).keys() - {"register"})
    return f"{', '.join(stages)} would run" if stages else ""


def _processes(commands: dict[str, tuple[str, ...]]) -> dict[str, Callable[[], object]]:
    run = partial(subprocess.run, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return {name: partial(run, command) for name, command in commands.items()}


def _environment() -> dict[str, str]:
    """Return this process's environment with its Python first, as `make` has it."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


if __name__ == "__main__":
    main()
