"""`make sbom`: what is inside, as CycloneDX lists, of what is installed and of a registered version. Not a stage.

The version's list names the adapter, its base and its pictures with digests and licences, and every package that serving needs.
"""

import argparse
import importlib.metadata
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import NormalizedName, canonicalize_name

from tasks.registry.held_files import version_files
from tasks.registry.names import CHAMPION, registered_name_here
from tasks.registry.trust import SIGNED_BY
from tasks.registry.versions import ADAPTER_DIGEST, find_alias
from tasks.running.telemetry import telemetry_off
from tasks.tracking.store import Store, TrackingError, explained_failures, open_store
from tlora.errors import SettingsError, TloraError
from tlora.runtime.atomic_file import write_json

if TYPE_CHECKING:
    from tasks.registry.versions import ModelVersion

Bom = dict[str, Any]  # CycloneDX, as JSON has it
ENVIRONMENT, MODEL = "environment.cdx.json", "model.cdx.json"
_TOLD = ("base", "base_revision", "data_digest", "data_dvc", "params_digest", "code_digest", "git_commit", SIGNED_BY)


def list_environment(python: str = sys.executable) -> Bom:
    """Return what is installed beside a Python.

    Raises:
        SettingsError: If the list cannot be made.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / ENVIRONMENT
        command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", "--no-validate"]
        command += ["--pyproject", "pyproject.toml"] if Path("pyproject.toml").is_file() else []
        answer = subprocess.run([*command, "-o", str(file), python], capture_output=True, text=True, check=False)
        if answer.returncode:
            said = (answer.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise SettingsError(f"what is installed could not be listed: {said}: pip install -e '.[sbom]'")
        return dict(json.loads(file.read_text(encoding="utf-8")))


def list_version(version: "ModelVersion", requirements: Sequence[Requirement], environment: Bom) -> Bom:
    """Return what a registered version is made of and needs.

    Args:
        version: The version; its tags say what the adapter is made of.
        requirements: Of its requirements.txt.
        environment: Of an environment that has them: there their licences and their own requirements are known.
    """
    packages, depended = _needed(requirements, environment)
    tags = version.tags
    model = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": version.name,
        "version": str(version.version),
        "hashes": [{"alg": "SHA-256", "content": tags[ADAPTER_DIGEST]}],
        "properties": [{"name": f"tlora:{name}", "value": tags[name]} for name in _TOLD if tags.get(name)],
        **_licence(tags, "adapter"),
    }
    base = {"type": "machine-learning-model", "bom-ref": "base", "name": tags.get("base", ""), **_licence(tags, "base")}
    data = {"type": "data", "bom-ref": "data", "name": f"pictures of {tags.get('concept', '')}", **_licence(tags, "data")}
    named = [base | {"version": tags.get("base_revision", "")}, data | {"version": tags.get("data_dvc", "")}]
    required = {canonicalize_name(wanted.name) for wanted in requirements}
    direct = sorted(each["bom-ref"] for each in packages if canonicalize_name(each["name"]) in required)
    return {
        "$schema": environment["$schema"],
        "bomFormat": environment["bomFormat"],
        "specVersion": environment["specVersion"],
        "version": 1,
        "metadata": {"component": model},
        "components": [*named, *packages],
        "dependencies": [{"ref": "model", "dependsOn": ["base", "data", *direct]}, *depended],
    }


def _needed(requirements: Sequence[Requirement], environment: Bom) -> tuple[list[Bom], list[Bom]]:
    """Return the packages that are required, and who requires which; of a version that is not installed, its name alone."""
    installed = {canonicalize_name(each["name"]): each for each in environment["components"]}
    found: dict[str, Bom] = {}
    requires: dict[str, list[NormalizedName]] = {}
    waiting: list[NormalizedName] = []
    for wanted in requirements:
        name, pin = canonicalize_name(wanted.name), next((each.version for each in wanted.specifier), "")
        if str(installed.get(name, {}).get("version", "")).split("+")[0] == pin:
            waiting.append(name)
        else:
            purl = f"pkg:pypi/{name}@{pin}"
            found[name] = {"type": "library", "bom-ref": purl, "name": wanted.name, "version": pin, "purl": purl}
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = installed[name]
            requires[name] = [each for each in _required_by(name) if each in installed]
            waiting += requires[name]
    reference = {name: str(each["bom-ref"]) for name, each in found.items()}
    depended = [
        {"ref": reference[name], "dependsOn": sorted({reference[each] for each in requires[name]})} for name in sorted(requires)
    ]
    return [found[name] for name in sorted(found)], depended


def _required_by(name: str) -> list[NormalizedName]:
    """Return what an installed package requires here, its extras apart: cyclonedx-bom counts those too, pytest among them."""
    required = map(Requirement, importlib.metadata.requires(name) or ())
    return [canonicalize_name(each.name) for each in required if each.marker is None or each.marker.evaluate({"extra": ""})]


def _licence(tags: Mapping[str, str], part: str) -> Bom:
    """Return a licence as CycloneDX has it: an SPDX identifier, or else a name; nothing where nobody said."""
    from cyclonedx.spdx import fixup_id

    name = tags.get(f"licence.{part}", "")
    if not name:
        return {}
    known = fixup_id(name)
    return {"licenses": [{"license": {"id": known} if known else {"name": name}}]}


def _find(store: Store, name: str, version: str) -> "ModelVersion | None":
    """Return a version by number or alias; None where nobody asked for one, and there is no champion."""
    if version.isdigit():
        found = next(iter(store.client.search_model_versions(f"name = '{name}' and version_number = {version}")), None)
    else:
        found = find_alias(store, name, version or CHAMPION)
    if found is None and version:
        raise TrackingError(f"{name}: no version {version!r} in the MLflow store: give an alias or a number")
    return found


def _requirements(store: Store, version: "ModelVersion") -> list[Requirement]:
    with version_files(store, version) as folder:
        if folder is None or not (folder / "requirements.txt").is_file():
            raise TrackingError(f"{version.name}, version {version.version}: its requirements.txt is not to be had")
        lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    try:
        return [Requirement(line) for line in lines if line.strip() and not line.startswith(("#", "-"))]
    except InvalidRequirement as error:
        wrong = str(error).splitlines()[-2].strip()
        raise TrackingError(f"{version.name}, version {version.version}: its requirements.txt is damaged: {wrong!r}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tasks.sbom", description="List what is inside, as CycloneDX.")
    parser.add_argument(
        "--version", default="", help="alias or number of a registered version; default: champion, if there is one"
    )
    parser.add_argument("--out", type=Path, default=Path("sbom"), help="folder for both lists")
    options = parser.parse_args(arguments)
    telemetry_off()
    try:
        environment = list_environment()
        write_json(options.out / ENVIRONMENT, environment)
        print(f"sbom: {options.out / ENVIRONMENT}: {len(environment['components'])} packages that are installed")
        name = registered_name_here()
        with explained_failures():
            store = open_store()
            version = _find(store, name, options.version)
            if version is None:
                print(f"sbom: {name} has no champion, of which there is no list then")
                return 0
            model = list_version(version, _requirements(store, version), environment)
        write_json(options.out / MODEL, model)
        print(f"sbom: {options.out / MODEL}: {name}, version {version.version}, and {len(model['components']) - 2} packages")
    except (TloraError, OSError) as error:
        print(f"sbom: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
