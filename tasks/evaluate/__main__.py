"""`python -m tasks.evaluate`."""

from tasks.running.cli import run_stage
from tlora.runtime.lean_imports import lean_imports

if __name__ == "__main__":
    with lean_imports():
        from tasks.evaluate.stage import evaluate
    run_stage(evaluate)
