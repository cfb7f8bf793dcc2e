"""`python -m tasks.cache_prompts`."""

from tasks.running.cli import run_stage
from tlora.runtime.lean_imports import lean_imports

if __name__ == "__main__":
    with lean_imports():
        from tasks.cache_prompts.stage import cache_prompts
    run_stage(cache_prompts)
