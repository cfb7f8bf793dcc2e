"""`python -m tasks.register`."""

from tasks.register.stage import register
from tasks.running.cli import run_stage

if __name__ == "__main__":
    run_stage(register)
