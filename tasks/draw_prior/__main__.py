"""`python -m tasks.draw_prior`."""

from tasks.draw_prior.stage import draw_prior
from tasks.running.cli import run_stage

if __name__ == "__main__":
    run_stage(draw_prior)
