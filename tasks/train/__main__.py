"""`python -m tasks.train`."""

from tasks.running.cli import run_stage
from tlora.runtime.lean_imports import lean_imports

if __name__ == "__main__":
    with lean_imports("transformers"):
        from tasks.train.stage import train
    run_stage(train, check=True)
