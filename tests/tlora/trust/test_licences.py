from pathlib import Path

import pytest

from tlora.trust.licences import Licences, LicenceSettings, front_matter, licences_of

FLUX = "black-forest-labs/FLUX.1-dev"
NON_COMMERCIAL = "flux-1-dev-non-commercial-license"


def test_what_a_publisher_says_of_a_base_stands_against_what_is_set() -> None:
    assert licences_of(FLUX, LicenceSettings("MIT", "CC0-1.0")) == Licences(NON_COMMERCIAL, "cc0-1.0", NON_COMMERCIAL)
    assert licences_of("black-forest-labs/FLUX.1-schnell", LicenceSettings()) == Licences("apache-2.0", "", "apache-2.0")
    assert licences_of("models/ours", LicenceSettings("MIT", "", "Apache 2.0")) == Licences("mit", "", "apache-2.0")


@pytest.mark.parametrize(
    ("name", "text", "licence"),
    [
        ("README.md", "---\nlicense: other\nlicense_name: flux-1-dev-non-commercial-license\n---\n# FLUX", NON_COMMERCIAL),
        ("README.md", "---\nlicense: apache-2.0\n---\n", "apache-2.0"),
        ("README.md", "no front matter", "mit"),
        ("LICENSE.md", "FLUX.1 [dev] Non-Commercial License v1.1.1\n", NON_COMMERCIAL),
        ("LICENSE", "Apache License", "mit"),
    ],
)
def test_a_base_in_a_folder_says_so_itself_where_it_is_as_the_hub_keeps_it(
    tmp_path: Path, name: str, text: str, licence: str
) -> None:
    (tmp_path / name).write_text(text)
    assert licences_of(str(tmp_path), LicenceSettings("MIT")).base == licence


@pytest.mark.parametrize(
    ("licences", "words"),
    [
        (Licences("apache-2.0", "cc0-1.0", "mit"), ""),
        (Licences("apache-2.0", "cc-by-nc-4.0", "mit"), "the licence of its data (cc-by-nc-4.0) allows no commercial use"),
        (Licences(NON_COMMERCIAL, "", ""), f"the licence of its base ({NON_COMMERCIAL}) allows no commercial use"),
        (Licences("mit", "", "mit"), "under which licence its data is, nobody said (licence.data in params.yaml)"),
        (Licences("mit", "mit", "house"), "whether the licence of its adapter (house) allows commercial use is not known"),
    ],
)
def test_commercial_use_is_allowed_where_all_three_licences_are_known_to(licences: Licences, words: str) -> None:
    assert licences.objection_to_commercial_use() == words


def test_the_hub_is_told_an_identifier_or_a_name() -> None:
    assert front_matter("cc0-1.0") == {"license": "cc0-1.0"}
    assert front_matter("house") == {"license": "other", "license_name": "house"}
    assert front_matter("") == {"license": "other"}
