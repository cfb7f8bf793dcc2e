"""`measure`: draw and score the champion again as evaluation is set up now, so that a challenger can be held against it.

The stage `evaluate` runs as it always does, on the card, in a tree of its own in which `adapters/` holds the champion alone.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from prefect import State, flow, get_run_logger
from prefect.states import Completed, Failed

from flows import stages
from flows.command import run_once
from flows.pipeline import run_id
from flows.secrets import stage_secrets
from flows.worktree import tree_of
from tasks.registry.names import CHALLENGER, CHAMPION, registered_name_here
from tasks.registry.promotion import fetch_adapter, record_measurement, stood_down
from tasks.registry.verdict import PromotionError
from tasks.registry.versions import find_alias
from tasks.running.git import ask_git, git
from tasks.tracking.store import explained_failures, open_store
from tlora.errors import TloraError, TrainingError
from tlora.metadata.adapter import FINAL

METRICS = Path("reports/evaluate/evaluate.json")
NOT_NEEDED = {"train", "register"}


@flow(name="measure", persist_result=False)
def measure(model: str = "", revision: str = "") -> State[None]:
    """Measure the champion anew.

    Args:
        model: Name of the registered model, by default the one that params.yaml and concept.yaml are about.
        revision: The commit or branch whose settings the challenger was measured with, such as run/1a2b3c4d; by default the
            tree as it stands, uncommitted changes included.
    """
    try:
        with explained_failures():
            return _measure(model or registered_name_here(), revision)
    except (TloraError, OSError) as error:
        return Failed(message=str(error))


def _measure(model: str, revision: str) -> State[None]:
    store = open_store()
    champion = find_alias(store, model, CHAMPION)
    if champion is None:
        raise PromotionError(f"{model}: no version is called {CHAMPION}: there is nothing to measure")
    with tree_of(revision or _as_it_stands(), f"measure-{run_id()}", "--detach"), tempfile.TemporaryDirectory() as folder:
        adapter = fetch_adapter(store, champion, Path(folder))
        for stage in stages.stage_order():
            if stage in NOT_NEEDED:
                continue
            if stage == "evaluate":
                shutil.rmtree("adapters", ignore_errors=True)
                shutil.copytree(adapter, Path("adapters") / FINAL)
            ran = stages.run_stage(stage, get_run_logger().info, secrets=stage_secrets())
            if ran.reason:
                raise TrainingError(f"{stage}: {ran.reason}")
        record_measurement(store, champion, METRICS)
    waiting = find_alias(store, model, CHALLENGER)
    waits = waiting and waiting.version != champion.version and not stood_down(waiting, str(champion.version))
    then = f": 'make promote' compares version {waiting.version} with it" if waits and waiting else ""
    return Completed(message=f"version {champion.version} of {model} is measured anew{then}")


def _as_it_stands() -> str:
    """Return a commit of the working tree, which stays as it is, or HEAD where nothing is changed."""
    made = ask_git("stash", "create")
    return made or git("rev-parse", "HEAD")


def main() -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m flows.measure", description="Draw and score the champion anew, here.")
    parser.add_argument("--model", default="", help="name of the registered model, by default this tree's")
    parser.add_argument("--revision", default="", help="whose settings, such as run/1a2b3c4d; by default the tree as it stands")
    options = parser.parse_args()
    return run_once("measure", lambda: measure(options.model, options.revision, return_state=True))


if __name__ == "__main__":
    sys.exit(main())
