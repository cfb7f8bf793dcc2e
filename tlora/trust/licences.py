"""Under which licences a base model, the pictures and an adapter are, and whether those allow commercial use.

Names are SPDX identifiers or the Hugging Face hub's. What is known of a base from its publisher stands against whatever is set;
what nobody said is unknown, and unknown allows nothing. None of this is legal advice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tlora.errors import SettingsError
from tlora.runtime.settings import parse_settings, read_mapping
from tlora.runtime.yaml_text import NotYamlError, parse_yaml
from tlora.trust.settings import PARAMS

FLUX_DEV = "black-forest-labs/FLUX.1-dev"
NON_COMMERCIAL_FLUX = "flux-1-dev-non-commercial-license"
NON_COMMERCIAL_FLUX_2 = "flux-non-commercial-license"
_BFL = "black-forest-labs"
_PUBLISHED = {
    FLUX_DEV: NON_COMMERCIAL_FLUX,
    f"{_BFL}/FLUX.1-Krea-dev": NON_COMMERCIAL_FLUX,
    f"{_BFL}/FLUX.1-schnell": "apache-2.0",
    f"{_BFL}/FLUX.2-klein-base-4B": "apache-2.0",
    f"{_BFL}/FLUX.2-klein-4B": "apache-2.0",
    f"{_BFL}/FLUX.2-klein-base-9B": NON_COMMERCIAL_FLUX_2,
    f"{_BFL}/FLUX.2-klein-9B": NON_COMMERCIAL_FLUX_2,
}
_LINKS = {
    NON_COMMERCIAL_FLUX: f"https://huggingface.co/{FLUX_DEV}/blob/main/LICENSE.md",
    NON_COMMERCIAL_FLUX_2: f"https://huggingface.co/{_BFL}/FLUX.2-klein-base-9B/blob/main/LICENSE.md",
}
_PERMISSIVE = "0bsd apache-2.0 bsd-2-clause bsd-3-clause cc0-1.0 cc-by-4.0 cc-by-sa-4.0 isc mit pddl-1.0 unlicense"
_COMMERCIAL = frozenset(_PERMISSIVE.split()) | {"openrail", "openrail++"}
_FORBIDDING = ("non-commercial", "noncommercial", "cc-by-nc", "research-only")
_CARD, _LICENCE_FILES = "README.md", "LICENSE*"  # in a folder as the hub keeps it


@dataclass(frozen=True)
class LicenceSettings:
    """Section `licence`: SPDX identifiers, or names of licences; empty where nobody said.

    Args:
        base: Of the base model, where it does not say itself.
        data: Of the pictures and captions.
        adapter: Of the adapter; empty: the base's.
    """

    base: str = ""
    data: str = ""
    adapter: str = ""


@dataclass(frozen=True)
class Licences:
    """What an adapter and all that it was made of are licensed under; empty where nobody said."""

    base: str = ""
    data: str = ""
    adapter: str = ""

    def parts(self) -> dict[str, str]:
        """Return what is licensed, and the licence's name."""
        return {"base": self.base, "data": self.data, "adapter": self.adapter}

    def __str__(self) -> str:
        """Return them for a sentence."""
        return "; ".join(f"{part}: {name or 'nobody said'}" for part, name in self.parts().items())

    def objection_to_commercial_use(self) -> str:
        """Return which part does not allow commercial use, in a sentence; empty if all do.

        Example:
            >>> Licences("flux-1-dev-non-commercial-license", "cc0-1.0", "mit").objection_to_commercial_use()
            'the licence of its base (flux-1-dev-non-commercial-license) allows no commercial use'
        """
        for part, name in self.parts().items():
            allowed = allows_commercial_use(name)
            if allowed is False:
                return f"the licence of its {part} ({name}) allows no commercial use"
            if allowed is None:
                known = f"whether the licence of its {part} ({name}) allows commercial use is not known"
                return known if name else f"under which licence its {part} is, nobody said (licence.{part} in params.yaml)"
        return ""


def licences_of(base: str, settings: LicenceSettings) -> Licences:
    """Return the licences of an adapter of a base model.

    Args:
        base: Folder or hub id.
        settings: What is set; of a base that says for itself, what it says is taken.
    """
    of_base = _PUBLISHED.get(base) or _said_by_folder(Path(base)) or settings.base.strip()
    return Licences(_plain(of_base), _plain(settings.data), _plain(settings.adapter or of_base))


def licences_here(base: str) -> Licences:
    """Return the licences of an adapter by the params.yaml of this folder, if there is one with a section `licence`.

    Raises:
        SettingsError: If the section is wrong.
    """
    given = read_mapping(PARAMS, "a mapping of sections", "").get("licence") if PARAMS.is_file() else None
    section = given if isinstance(given, dict) else {}
    return licences_of(base, parse_settings(LicenceSettings, section, f"{PARAMS}: licence", complete=False))


def allows_commercial_use(name: str) -> bool | None:
    """Whether a licence allows commercial use; None where that is not known.

    Example:
        >>> allows_commercial_use("Apache-2.0"), allows_commercial_use("CC-BY-NC-4.0"), allows_commercial_use("ours")
        (True, False, None)
    """
    plain = _plain(name)
    if any(word in plain for word in _FORBIDDING):
        return False
    return True if plain in _COMMERCIAL else None


def front_matter(name: str) -> dict[str, str]:
    """Return a licence as the front matter of a card on the hub has it."""
    if name in _COMMERCIAL or name.startswith("cc-by"):
        return {"license": name}
    link = {"license_link": _LINKS[name]} if name in _LINKS else {}
    return {"license": "other", **({"license_name": name} if name else {}), **link}


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "-")


def _said_by_folder(folder: Path) -> str:
    """Return what the folder of a base says of its licence: in its card, or in a licence file that forbids commercial use."""
    if not folder.is_dir():
        return ""
    for file in sorted(folder.glob(_LICENCE_FILES)):
        beginning = file.read_text(encoding="utf-8", errors="replace")[:2000].lower() if file.is_file() else ""
        if "non-commercial" in beginning:
            return NON_COMMERCIAL_FLUX if "flux" in beginning else "non-commercial"
    card = folder / _CARD
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    if not text.startswith("---\n"):
        return ""
    try:
        said = parse_yaml(text.split("---\n")[1])
    except NotYamlError as error:
        raise SettingsError(f"{card}: its front matter is not valid YAML: {error}") from error
    if not isinstance(said, Mapping):
        return ""
    return str(said.get("license_name") or said.get("license") or "")
