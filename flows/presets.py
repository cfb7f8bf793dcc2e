"""`python -m flows.presets`: how long to train, in three words, and what a card of a given size needs; written into params.yaml.

"good" is what params/ has for the base; a quick look is a quarter of it, best twice as much. Nothing but params.yaml holds what
was chosen, so that git shows it and a command line goes on from it.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.overrides import apply_overrides, check_overrides
from tasks.running.cli import read_params
from tlora.errors import SettingsError, TloraError
from tlora.runtime.atomic_file import write_text
from tlora.runtime.remedies import PIPELINE, explain
from tlora.runtime.yaml_text import parse_yaml

PARAMS, SHIPPED = Path("params.yaml"), Path("params")
AS_IT_IS = "as params.yaml has it"
SHARES = {"quick look": 0.25, "good": 1.0, "best": 2.0}  # of the steps that params/ has for the base
CHECKPOINTS, PREVIEWS = 8, 4  # how many of each a run has
MOST_GB = 1e6


def preset_overrides(preset: str, card: float | None = None) -> list[str]:
    """Return what a preset changes in params.yaml, each `section.key=value`.

    Args:
        preset: `AS_IT_IS`, or one of `SHARES`.
        card: Memory in GB of the card to choose settings for; None to leave them.

    Raises:
        SettingsError: If there is no such preset, no file in params/ has this base, or no setting fits the card.
    """
    if card is not None and not 0 < card < MOST_GB:
        raise SettingsError(f"the card's memory must be positive and below a million GB, got {card:g}")
    if preset not in (AS_IT_IS, *SHARES):
        raise SettingsError(f"no preset {preset!r}: {', '.join([AS_IT_IS, *SHARES])}")
    overrides = [] if preset == AS_IT_IS else _steps(SHARES[preset])
    return overrides + (list(_for_card(card)) if card is not None else [])


def costs(preset: str, card: float | None = None) -> list[str]:
    """Return what training would take: lines about memory and time, estimated or as the last run measured them.

    Raises:
        TloraError: As `preset_overrides`, or if the base is not here.
    """
    from tlora.commands.doctor import costs_of  # it takes torch with it

    overrides = preset_overrides(preset, card)
    with tempfile.TemporaryDirectory() as folder:
        tried = Path(folder) / PARAMS.name
        write_text(tried, PARAMS.read_text(encoding="utf-8"))
        apply_overrides(tried, overrides)
        lines = list(costs_of(tried))[:2]  # what to set for a card is in the overrides already
    return [*lines, f"sets {', '.join(overrides)}" if overrides else "sets nothing"]


def apply_preset(preset: str, card: float | None = None) -> list[str]:
    """Write a preset into params.yaml and return what it set.

    Raises:
        TloraError: As `preset_overrides`, or if a stage would refuse it; params.yaml is then as it was.
    """
    overrides = preset_overrides(preset, card)
    check_overrides(overrides, read_params(PARAMS))
    if overrides:
        apply_overrides(PARAMS, overrides)
    return overrides


def _steps(share: float) -> list[str]:
    steps = max(1, round(share * int(_shipped()["train"]["max_train_steps"])))
    return [
        f"train.max_train_steps={steps}",
        f"train.checkpointing_steps={max(1, steps // CHECKPOINTS)}",
        f"train.preview_every={max(1, steps // PREVIEWS)}",
    ]


def _shipped() -> dict[str, Any]:
    """Return the parameters that params/ has for the base of params.yaml."""
    base = read_params(PARAMS)["model"]["path"]
    for file in sorted(SHIPPED.glob("*.yaml")):
        params = read_params(file)
        if params["model"]["path"] == base:
            return params
    raise SettingsError(f"no file in {SHIPPED}/ is about {base}: choose {AS_IT_IS!r}")


def _for_card(card: float) -> Iterator[str]:
    from tlora.commands.doctor import costs_of

    lines = list(costs_of(PARAMS, card))[2:]
    if len(lines) < 2:
        raise SettingsError(lines[0] if lines else "nothing is known of that card")
    sections: dict[str, dict[str, Any]] = parse_yaml("\n".join(lines[1:]))
    for section, values in sections.items():
        for key, value in values.items():
            yield f"{section}.{key}={str(value).lower() if isinstance(value, bool) else value}"


def main() -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m flows.presets", description="Say what a preset takes, or write it.")
    parser.add_argument("--preset", default=AS_IT_IS, help=", ".join(SHARES))
    parser.add_argument("--card", type=float, metavar="GB", help="also set what a card of so much memory needs")
    parser.add_argument("--apply", action="store_true", help="write it into params.yaml")
    options = parser.parse_args()
    try:
        lines = costs(options.preset, options.card)
        if options.apply:
            apply_preset(options.preset, options.card)
    except (TloraError, OSError) as error:
        print(f"presets: error: {explain(error, PIPELINE) if isinstance(error, TloraError) else error}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
