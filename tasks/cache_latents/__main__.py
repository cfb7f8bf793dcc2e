"""`python -m tasks.cache_latents`."""

from tasks.running.cli import run_stage
from tlora.runtime.lean_imports import lean_imports

if __name__ == "__main__":
    with lean_imports("transformers"):
        from tasks.cache_latents.stage import cache_latents
    run_stage(cache_latents)
