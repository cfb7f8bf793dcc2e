"""Section `retrain` of params.yaml: what flows read, and what is checked before any stage."""

from dataclasses import dataclass

MOST_DAYS = 100_000  # a date so long ago can still be written


@dataclass(frozen=True)
class RetrainSettings:
    """Section `retrain`: where new data comes from, what else is a reason, and what is done with the result.

    Args:
        on_code_change: Whether changed code alone is a reason.
        git_remote: Fetched and fast-forwarded to before looking; empty for never.
        git_branch: Of that remote.
        update_import: Whether data.dvc, where it is an import, is brought up to date with where it comes from.
        commit: Whether the lock, data.dvc and the metrics are committed afterwards.
        push: Whether what DVC holds is pushed to its default remote afterwards, and the commit to the git remote.
        keep_days: How long what nothing points at is kept, for `make prune`.
    """

    on_code_change: bool = False
    git_remote: str = ""
    git_branch: str = "main"
    update_import: bool = False
    commit: bool = False
    push: bool = False
    keep_days: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.keep_days <= MOST_DAYS:
            raise ValueError(f"keep_days must be in 0..{MOST_DAYS}, got {self.keep_days}")
