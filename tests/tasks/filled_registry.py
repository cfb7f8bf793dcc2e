"""Versions of a registered model without a model in them: what promotion looks at is tags, aliases and metrics."""

from tasks.tracking.store import Store

NAME = "tlora-kiln-brick"
SCORES = {"similarity_held_out": 0.5, "prompt_following": 0.0, "diversity_ratio": 0.75, "copied": 0.0}
TAGS = {
    "base": "models/kiln",
    "base_revision": "base-1",
    "recommended": "true",
    "step": "50",
    "evaluation.prompts": "prompts-1",
    "evaluation.seeds": "1000,1001",
    "evaluation.evaluator": "clip@1",
}


def add_version(
    store: Store,
    alias: str,
    scores: dict[str, float] | None = None,
    tags: dict[str, str] | None = None,
    params: dict[str, str] | None = None,
) -> str:
    """Register a version with an alias and return its number."""
    if not store.client.search_registered_models(f"name = '{NAME}'"):
        store.client.create_registered_model(NAME)
    run = store.client.create_run(store.experiment_id).info
    for name, value in {**SCORES, **(scores or {})}.items():
        store.client.log_metric(run.run_id, f"evaluate/{name}", value, step=50)
    for name, text in (params or {}).items():
        store.client.log_param(run.run_id, name, text)
    version = store.client.create_model_version(NAME, f"{run.artifact_uri}/adapter", run.run_id, tags={**TAGS, **(tags or {})})
    store.client.set_registered_model_alias(NAME, alias, str(version.version))
    return str(version.version)
