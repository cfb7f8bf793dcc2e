"""Room on a disk, and folders that can be written to: checked before anything heavy."""

import os
import shutil
from pathlib import Path

from tlora.errors import ModelError, SettingsError


def require_free_space(folder: Path, wanted: float, remedy: str) -> None:
    """Check that a folder's disk has room.

    Raises:
        ModelError: Naming the folder, what is free, what is wanted, and the remedy.
    """
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < wanted:
        raise ModelError(f"{folder}: {free / 1e9:.1f} GB free, {wanted / 1e9:.1f} GB needed: {remedy}")


def require_writable(folder: Path) -> None:
    """Make a folder, before anything heavy, and check that files can be made in it.

    Raises:
        SettingsError: Naming the folder and what is in the way.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".tlora-{os.getpid()}.partial"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SettingsError(f"{folder}: cannot be written ({error.strerror}): choose another folder") from error
