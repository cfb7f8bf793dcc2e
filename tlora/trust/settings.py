"""Section `trust` of params.yaml: who signs, and whose signature is asked for."""

import os
from dataclasses import dataclass
from pathlib import Path

from tlora.runtime.settings import parse_settings, read_mapping

PRIVATE_KEY = "TLORA_PRIVATE_KEY"  # environment: the private key of this machine, where it is not the one of params.yaml
PARAMS = Path("params.yaml")


@dataclass(frozen=True)
class TrustSettings:
    """Section `trust`.

    Args:
        public_key: PEM file of the key that every adapter and version must be signed with; empty: nothing is verified.
        private_key: PEM file of the key that `register` signs with; empty: nothing is signed.
    """

    public_key: str = ""
    private_key: str = ""

    @property
    def verifies_with(self) -> Path | None:
        """The public key, or None where nothing is verified."""
        return Path(self.public_key).expanduser() if self.public_key else None

    @property
    def signs_with(self) -> Path | None:
        """The private key, or None where nothing is signed; the environment's is taken before the one of params.yaml."""
        key = os.environ.get(PRIVATE_KEY) or self.private_key
        return Path(key).expanduser() if key else None


def trust_here() -> TrustSettings:
    """Return the section of the params.yaml in this folder; where there is no file or no section, nothing is asked.

    Raises:
        SettingsError: If the section is wrong.
    """
    given = read_mapping(PARAMS, "a mapping of sections", "").get("trust") if PARAMS.is_file() else None
    return parse_settings(TrustSettings, given if isinstance(given, dict) else {}, f"{PARAMS}: trust", complete=False)
