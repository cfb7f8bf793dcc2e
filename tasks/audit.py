"""`make audit`: whether anything is known against the packages that are installed. Not a stage.

pip-audit says "no known vulnerabilities" also where its service knew none of the packages: here nobody was asked then.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlora.errors import TloraError

VULNERABLE, NOT_ASKED = 1, 2  # exit statuses
_SECONDS = "10"  # for each answer


class AuditError(TloraError):
    """No advisory service was reached, or it knew nothing of any package."""


@dataclass(frozen=True)
class Audit:
    """What came of it.

    Args:
        asked: How many packages the service answered for.
        skipped: Names of those that it knows nothing of: this project's own, builds of one's own, and the like.
        found: A line for each known vulnerability.
    """

    asked: int
    skipped: tuple[str, ...]
    found: tuple[str, ...]


def audit(requirements: Path | None, service: str, osv_url: str = "") -> Audit:
    """Ask an advisory service about packages.

    Args:
        requirements: File of exact pins; None for what is installed here.
        service: `pypi` or `osv`.
        osv_url: Of a mirror of OSV.

    Raises:
        AuditError: If nobody answered.
    """
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--timeout", _SECONDS]
    command += ["--vulnerability-service", service, *(["--osv-url", osv_url] if osv_url else [])]
    command += ["--requirement", str(requirements), "--no-deps", "--disable-pip"] if requirements else ["--skip-editable"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(answer.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError) as error:
        said = (answer.stderr.strip().splitlines() or [f"pip-audit ended with {answer.returncode}"])[-1]
        raise AuditError(f"no advisory service was reached, so nothing is known of any package: {said}") from error
    skipped = tuple(str(each["name"]) for each in packages if "skip_reason" in each)
    if len(skipped) == len(packages):
        raise AuditError(
            f"the advisory service ({service}) answered for none of {len(packages)} packages: nothing is known of them"
        )
    found = tuple(_line(each, known) for each in packages for known in each.get("vulns", ()))
    return Audit(len(packages) - len(skipped), skipped, found)


def _line(package: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    fixed = ", ".join(known.get("fix_versions") or ()) or "no version yet"
    names = ", ".join([known["id"], *known.get("aliases", ())])
    return f"{package['name']} {package['version']}: {names}; fixed in {fixed}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.audit", description="Ask what is known against the installed packages."
    )
    parser.add_argument("--requirements", type=Path, help="file of exact pins to ask about, in place of what is installed")
    parser.add_argument("--service", choices=["pypi", "osv"], default="pypi", help="who is asked")
    parser.add_argument("--osv-url", default="", help="of a mirror of OSV, whose service is then asked")
    options = parser.parse_args(arguments)
    try:
        result = audit(options.requirements, "osv" if options.osv_url else options.service, options.osv_url)
    except (TloraError, OSError) as error:
        print(f"audit: error: {error}", file=sys.stderr)
        return NOT_ASKED
    for line in result.found:
        print(f"audit: {line}")
    unknown = f"; not known there: {', '.join(result.skipped)}" if result.skipped else ""
    print(f"audit: {len(result.found)} known vulnerabilities in {result.asked} packages{unknown}")
    return VULNERABLE if result.found else 0


if __name__ == "__main__":
    sys.exit(main())
