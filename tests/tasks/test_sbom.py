"""`make sbom`: lists that CycloneDX's own schema takes, of what is installed and of a registered version."""

import importlib.metadata
import json
from pathlib import Path

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tasks.sbom import main
from tests.tasks.finished_run import BASE, DVC_DIGEST, NAME, FinishedRun
from tlora.trust.licences import LicenceSettings


def test_the_list_of_a_version_names_adapter_base_data_licences_and_packages(
    finished_run: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    params = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
    Path("params.yaml").write_text(yaml.safe_dump({"model": params["model"] | {"path": BASE}}))
    assert main([]) == 0
    assert f"sbom: {NAME} has no champion" in capsys.readouterr().out
    finished_run.register(licence=LicenceSettings("Apache-2.0", "the house's own"))
    (requirements,) = finished_run.root.rglob("requirements.txt")
    kept = requirements.read_text()
    requirements.write_text(kept + "==1")
    assert main([]) == 2
    assert f"sbom: error: {NAME}, version 1: its requirements.txt is damaged: 'transformers==" in capsys.readouterr().err
    requirements.write_text(f"{kept}\nmortar==1.0\n")
    assert main([]) == 0
    written = json.loads(Path("sbom/model.cdx.json").read_text())
    few = written | {"components": written["components"][:5], "dependencies": written["dependencies"][:1]}
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(few)) is None  # of all it takes minutes
    model, (base, data, *packages) = written["metadata"]["component"], written["components"]
    assert (model["name"], model["version"], len(model["hashes"][0]["content"])) == (NAME, "1", 64)
    assert model["licenses"] == base["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert (base["name"], base["version"]) == (BASE, "base-1")
    assert (data["version"], data["licenses"]) == (DVC_DIGEST, [{"license": {"name": "the-house's-own"}}])
    versions = {package["name"].lower(): package["version"] for package in packages}
    assert versions["torch"].split("+")[0] == importlib.metadata.version("torch").split("+")[0]
    assert versions["networkx"] == importlib.metadata.version("networkx")  # which torch needs
    assert versions["mortar"] == "1.0"
    assert "pytest" not in versions
    installed = json.loads(Path("sbom/environment.cdx.json").read_text())["components"]
    assert len(installed) > len(packages)
    assert main(["--version", "7"]) == 2
    assert f"sbom: error: {NAME}: no version '7' in the MLflow store" in capsys.readouterr().err
