"""A working copy of this tree with a person at its command line: the shipped data and models, settings for a few steps."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
SHIPPED = ["data.dvc", "models/pocket-flux.dvc", "models/pocket-flux2.dvc", "models/pocket-clip.dvc", "models/pocket-judge.dvc"]
QUICK = {
    "train": {"max_train_steps": 4, "checkpointing_steps": 2, "state_steps": 1, "train_batch_size": 2, "guard_step": 2},
    "evaluate": {"num_inference_steps": 3, "seeds": 2},
}
RESULTS = [
    "adapters",
    *("artifacts/manifest", "artifacts/grids", "artifacts/pictures", "artifacts/recommended"),
    *("reports/validate", "reports/train", "reports/evaluate"),
]
STAGES = ["validate", "cache_prompts", "cache_latents", "draw_prior", "train", "evaluate", "register"]


class Clone:
    """A working copy with a person at its command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
            "TMPDIR": str(folder.parent),  # where the device's lock lies: nobody else's run is waited for
            "GIT_CONFIG_COUNT": "2",
            "GIT_CONFIG_KEY_0": "user.name",
            "GIT_CONFIG_VALUE_0": "test",
            "GIT_CONFIG_KEY_1": "user.email",
            "GIT_CONFIG_VALUE_1": "test@localhost",
        }

    def run(self, *command: str, fails: bool = False) -> str:
        """Run a command; return what it printed."""
        result = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert (result.returncode != 0) == fails, result.stdout
        return result.stdout

    def repro(self, *arguments: str) -> str:
        """Run the pipeline; return what it printed."""
        return self.run("dvc", "repro", *arguments)

    def commit(self, message: str) -> None:
        """Commit everything that git sees."""
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)

    def change_params(self, file: str, changes: dict[str, object]) -> None:
        """Change values of a YAML file in place, by dotted name."""
        path = self.folder / file
        params = yaml.safe_load(path.read_text())
        for name, value in changes.items():
            *parents, last = name.split(".")
            section = params
            for parent in parents:
                section = section[parent]
            section[last] = value
        path.write_text(yaml.safe_dump(params, sort_keys=False))


def ran(output: str) -> list[str]:
    """Return the stages that DVC says it ran, in order."""
    return re.findall(r"Running stage '(\w+)'", output)


def copy_tree(target: Path) -> None:
    """Copy the files that git tracks, or would, as they stand."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def new_clone(folder: Path) -> Clone:
    """Make a copy with quick settings, committed, and pull what is shipped."""
    folder.mkdir(parents=True, exist_ok=True)
    copy_tree(folder)
    person = Clone(folder)
    person.run("git", "init", "--quiet", "--initial-branch", "main")
    person.change_params("params.yaml", {f"{s}.{k}": v for s, values in QUICK.items() for k, v in values.items()})
    person.commit("start")
    person.run("dvc", "pull", "--remote", "shipped", *SHIPPED)
    return person
