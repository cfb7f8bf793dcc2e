"""`python -m tasks.train`."""

from tasks.running.cli import run_stage
from tasks.train.stage import train

if __name__ == "__main__":
    run_stage(train, check=True)
