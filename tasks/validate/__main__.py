"""`python -m tasks.validate`."""

from tasks.running.cli import run_stage
from tasks.validate.stage import validate

if __name__ == "__main__":
    run_stage(validate, check=True)
