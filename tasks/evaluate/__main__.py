"""`python -m tasks.evaluate`."""

from tasks.evaluate.stage import evaluate
from tasks.running.cli import run_stage

if __name__ == "__main__":
    run_stage(evaluate)
