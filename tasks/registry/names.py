"""What a registered model is called, and what versions of it are called."""

from pathlib import Path

from tasks.running.cli import read_section
from tlora.flux.spec import ModelSpec
from tlora.metadata.concept import read_concept
from tlora.runtime.settings import parse_settings

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
PARAMS, CONCEPT = Path("params.yaml"), Path("concept.yaml")


def registered_name(model: ModelSpec, concept: str) -> str:
    """Return the name of the model that adapters of a base and a concept are versions of."""
    return f"tlora-{model.name}-{concept}"


def registered_name_here() -> str:
    """Return the name of the model that this tree's pipeline registers.

    Raises:
        SettingsError: If params.yaml or concept.yaml cannot be read.
    """
    model = parse_settings(ModelSpec, read_section(PARAMS, "model"), f"{PARAMS}: model")
    return registered_name(model, read_concept(CONCEPT).name)
