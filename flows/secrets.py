"""Tokens and passwords: handed to stages in the environment, and removed from every line of a log.

Never parameters, job variables or arguments: Prefect keeps those in its database, and dvc.lock keeps a stage's command.
"""

import os
from collections.abc import Mapping

from flows.login import CLIENT, SERVER

TOKEN, BLOCK = "HF_TOKEN", "hf-token"
_VARIABLES = (
    TOKEN,
    *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"),
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "TLORA_PRIVATE_KEY_PASSWORD", CLIENT, SERVER),
)
_SHORTEST = 6  # characters; striking out a shorter value would strike out half of every line


def stage_secrets() -> dict[str, str]:
    """Return what stages are given beside the environment: the hub's token from a Prefect Secret, if it is not there."""
    if os.environ.get(TOKEN):
        return {}
    from prefect.blocks.system import Secret

    try:
        block = Secret.load(BLOCK)
    except ValueError:  # there is no such block
        return {}
    assert isinstance(block, Secret)  # in a flow that is not async, this is no coroutine
    return {TOKEN: str(block.get())}


def strike_out(text: str, secrets: Mapping[str, str]) -> str:
    """Return a text with every secret in it, given here or in the environment, replaced by asterisks.

    Example:
        >>> strike_out("401 for hf_abcdef", {"HF_TOKEN": "hf_abcdef"})
        '401 for ***'
    """
    for name in _VARIABLES:
        value = secrets.get(name) or os.environ.get(name, "")
        if len(value) >= _SHORTEST:
            text = text.replace(value, "***")
    return text
