"""The recommended checkpoint under a name that stays: what is exported, published and drawn with, whichever step it is.

A copy of its weights; `adapters/` is an output of `train`, where nobody else may write.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlora.metadata.adapter import find_weights
from tlora.runtime.atomic_file import write_json

WHY = "why.json"  # there even where nothing is recommended, and the folder holds no weights


def write_recommended(folder: Path, checkpoints: Mapping[str, Path], summary: Mapping[str, Any]) -> None:
    """Copy the weights of the recommended checkpoint, and say which it is and why.

    Args:
        folder: Output folder.
        checkpoints: Folders by name.
        summary: The evaluation's: `recommended`, a name or None, and `reason`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if summary["recommended"]:
        weights = find_weights(checkpoints[summary["recommended"]])
        shutil.copyfile(weights, folder / weights.name)
    write_json(folder / WHY, {"recommended": summary["recommended"], "reason": summary["reason"]})
