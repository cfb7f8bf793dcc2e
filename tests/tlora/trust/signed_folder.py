"""A folder with files in it, signed by a key that was made for it."""

from dataclasses import dataclass
from pathlib import Path

from tlora.trust.keys import make_keys
from tlora.trust.signing import sign


@dataclass(frozen=True)
class Signed:
    """The folder, and the keys that it was signed with."""

    folder: Path
    private: Path
    public: Path


def make_signed(place: Path) -> Signed:
    """Lay out a folder and sign it."""
    private, public = make_keys(place / "keys")
    folder = place / "folder"
    (folder / "a").mkdir(parents=True)
    (folder / "a/weights").write_text("weights")
    (folder / "b").write_text("b")
    sign(folder, folder / "model.sig", private)
    return Signed(folder, private, public)
