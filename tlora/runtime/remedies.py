"""What helps against an error: the library says what is wrong, and the program that somebody runs adds what to do."""

from collections.abc import Mapping

from tlora.errors import Lack, TloraError

PIPELINE: Mapping[Lack, str] = {
    "base": "check model.path in params.yaml, or fetch the shipped models with 'dvc pull -r shipped'",
    "device": "set model.device in params.yaml",
    "data": "fetch the data with 'dvc pull', or bring your own with 'make new DATA=... TRIGGER=...'",
    "pictures": "bring yours with 'make new DATA=... TRIGGER=...'",
    "evaluator": (
        "check evaluator and dinov2 in section evaluate of params.yaml, and stop_evaluator in section train,"
        " or fetch the shipped models with 'dvc pull -r shipped'"
    ),
    "cache": "delete that folder and run the stage that makes it again",
    "captions": "run cache_prompts again",
    "manifest": "run validate again",
}
CONFIG: Mapping[Lack, str] = {
    "base": "check pretrained_model_name_or_path",
    "data": "check train_data_dir",
    "pictures": "put yours there",
}


def explain(error: TloraError, remedies: Mapping[Lack, str]) -> str:
    """Return what an error says, and what helps where the caller knows it.

    Example:
        >>> explain(TloraError("walls: no such folder", "data"), {"data": "build some"})
        'walls: no such folder: build some'
    """
    remedy = remedies.get(error.lack) if error.lack else None
    return f"{error}: {remedy}" if remedy else str(error)
