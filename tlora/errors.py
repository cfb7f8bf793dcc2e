"""What can go wrong because of what was given to us; each is shown to a person as one line, never as a traceback.

TloraError
+-- SettingsError     a setting is unknown, missing, of the wrong type, out of range, or contradicts another
+-- PictureError      a picture, a caption or a folder of them cannot be used
+-- ModelError        a base model or an evaluator cannot be found, reached or loaded
+-- InjectionError    the targets of an adapter do not fit the transformer
+-- MaskError         a layer was run without a sigma mask, or with one that does not fit
+-- MergeError        an adapter cannot be folded into the weights, or rounding would eat it
+-- CheckpointError   an adapter or a state file cannot be trusted
+-- CacheError        a cached embedding or latent is missing or does not fit what is asked of it
+-- TrainingError     training cannot go on: a loss or a gradient is not finite
|   +-- OutOfMemoryError  what is asked for needs more memory than there is
+-- EvaluationError   an evaluation is incomplete, or not there where it is needed
"""

from typing import Literal

Lack = Literal["base", "device", "data", "pictures", "evaluator", "cache", "captions", "manifest"]


class TloraError(Exception):
    """Anything wrong with what was given to us.

    Args:
        said: What is wrong, and where.
        lack: What cannot be used, where the way to come by it depends on the program that is run; its caller says which.
    """

    def __init__(self, said: str = "", lack: Lack | None = None) -> None:
        super().__init__(said)
        self.lack = lack


class SettingsError(TloraError):
    """A setting is unknown, missing, of the wrong type, out of range, or contradicts another."""


class PictureError(TloraError):
    """A picture, a caption or a folder of them cannot be used."""


class ModelError(TloraError):
    """A base model or an evaluator cannot be found, reached or loaded."""


class InjectionError(TloraError):
    """The targets of an adapter do not fit the transformer."""


class MaskError(TloraError):
    """A layer was run without a sigma mask, or with one that does not fit."""


class MergeError(TloraError):
    """An adapter cannot be folded into the weights, or rounding would eat too much of it."""


class CheckpointError(TloraError):
    """An adapter or a state file cannot be trusted."""


class CacheError(TloraError):
    """A cached embedding or latent is missing or does not fit what is asked of it."""


class TrainingError(TloraError):
    """Training cannot go on: a loss or a gradient is not finite."""


class EvaluationError(TloraError):
    """An evaluation is incomplete, or not there where it is needed."""


class OutOfMemoryError(TrainingError):
    """What is asked for needs more memory than there is."""
