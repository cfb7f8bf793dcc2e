"""What each command spends before its first useful work, and what `dvc repro` costs when there is nothing to do.

The first is a process that imports all of the command and ends. With `--against FOLDER`, another checkout, its commands take
turns with these, in seconds of CPU, and a table says which packages cost them. The second needs a finished pipeline
(`make demo`): `register` runs every time, and what DVC takes beside it is the difference.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.measure import machine, ratio, take_turns
from tlora.runtime.yaml_text import parse_yaml

COMPUTING = ("cache_prompts", "cache_latents", "train", "evaluate")
STAGES = ("validate", *COMPUTING, "draw_prior", "register")
BARE = "bare Python"
_CONFIG = ("--config", "configs/pocket.yaml", "--lora_path", "/dev/null/adapter", "--prompt", "x", "--outdir", "/dev/null/drawn")
INFER = ("-m", "tlora.cli", "infer", *_CONFIG)  # it gets as far as looking for the adapter
COMMANDS = {
    BARE: ("-c", "pass"),
    **{f"tasks.{stage}": ("-m", f"tasks.{stage}", "--help") for stage in STAGES},
    "tlora infer": INFER,
    "tasks.new": ("-c", "import tasks.new"),
    "flows.plan": ("-c", "import flows.plan"),
    "flows.promote": ("-c", "import flows.promote"),
    "tlora --help": ("-m", "tlora.cli", "--help"),
}
COMPARED = (*(f"tasks.{stage}" for stage in COMPUTING), "tlora infer")
WANTED = 3  # seconds, of `dvc repro` beside register
SHOWN = 0.1  # seconds of a package's own imports, from which on it has a row


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=main.__doc__)
    parser.add_argument("--smoke", action="store_true", help="the light commands once, and no DVC")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout, which takes turns with this one")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    if options.against:
        compare(Path.cwd(), options.against, ("tasks.validate",) if options.smoke else COMPARED, options.rounds)
        return
    light = (BARE, "tasks.validate", "tasks.register", "tlora --help")
    commands = {name: (sys.executable, *given) for name, given in COMMANDS.items() if not options.smoke or name in light}
    seconds = take_turns(_processes(commands, Path.cwd()), rounds=1 if options.smoke else options.rounds)
    print(f"{machine()}\n\n| until it can begin | ms | times bare Python |\n| --- | --- | --- |")
    for name, times in seconds.items():
        print(f"| {name} | {statistics.median(times) * 1e3:.0f} | {ratio(seconds, name, BARE):.0f} |")
    if not options.smoke:
        _print_nothing_to_do()


def compare(here: Path, there: Path, names: Sequence[str], rounds: int) -> None:
    """Print what commands cost in two checkouts, in seconds of CPU, and which packages cost it."""
    print(f"{machine()}\n\n| until it can begin, s of CPU | {there.name} | here | ratio |\n| --- | --- | --- | --- |")
    sums = [0.0, 0.0]
    for name in names:
        command = {name: (sys.executable, *COMMANDS[name])}
        contenders = {folder.as_posix(): _processes(command, folder)[name] for folder in (there, here)}
        seconds = take_turns(contenders, rounds, clock=_children_seconds)
        before, after = (statistics.median(times) for times in seconds.values())
        sums = [sums[0] + before, sums[1] + after]
        print(f"| {name} | {before:.2f} | {after:.2f} | {after / before:.2f} |", flush=True)
    print(f"| sum | {sums[0]:.2f} | {sums[1]:.2f} | {sums[1] / sums[0]:.2f} |")
    print(f"\n| seconds of importing, of {SHOWN} or more | package | {there.name} | here |\n| --- | --- | --- | --- |")
    for name in names:
        own = [_imported(COMMANDS[name], folder) for folder in (there, here)]
        for package in sorted({*own[0], *own[1]}, key=lambda package: -own[0][package]):
            if max(own[0][package], own[1][package]) >= SHOWN:
                print(f"| {name} | {package} | {own[0][package]:.2f} | {own[1][package]:.2f} |")


def _imported(command: Sequence[str], folder: Path) -> dict[str, float]:
    """Return the seconds that each package's modules took by themselves to import; torch's large parts count apart."""
    timed = [sys.executable, "-X", "importtime", *command]
    told = subprocess.run(timed, cwd=folder, env=_environment(folder), capture_output=True, text=True, check=False)
    seconds: dict[str, float] = defaultdict(float)
    for line in told.stderr.splitlines():
        own, _, name = [*line.removeprefix("import time:").split("|"), "", ""][:3]
        if own.strip().isdigit():
            parts = name.strip().split(".")
            seconds[".".join(parts[:2]) if parts[0] == "torch" and parts[1:2] in _APART else parts[0]] += int(own) / 1e6
    return seconds


_APART = (["_dynamo"], ["_inductor"], ["distributed"])


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _print_nothing_to_do() -> None:
    if stale := _stale():
        print(f"\n`dvc repro` with nothing to do: not measured, {stale}: run `make demo` first")
        return
    register = " ".join(parse_yaml(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]["register"]["cmd"].split())
    commands = {"dvc repro": ("dvc", "repro"), "register alone": tuple(register.split())}
    seconds = take_turns(_processes(commands, Path.cwd()), rounds=7)
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


def _processes(commands: Mapping[str, tuple[str, ...]], folder: Path) -> dict[str, Callable[[], object]]:
    run = partial(subprocess.run, cwd=folder, env=_environment(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return {name: partial(run, command, check=command[1:] != INFER) for name, command in commands.items()}


def _environment(folder: Path | None = None) -> dict[str, str]:
    """Return this process's environment with its Python first, as `make` has it, and a checkout's own modules before others."""
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return os.environ | path | ({"PYTHONPATH": str(folder)} if folder else {})


if __name__ == "__main__":
    main()
