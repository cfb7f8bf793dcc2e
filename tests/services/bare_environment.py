"""A virtual environment that holds what a list of pinned requirements pulls in, and nothing else.

Installing it anew would cost minutes and a network, so its packages are links to those of the environment that runs the tests,
at the versions that are pinned; a package that the list forgets is missing, and so is this repository.
"""

import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_LAUNCHER = "#!{python}\nimport sys\nfrom uvicorn.main import main\nsys.exit(main())\n"


def make_bare_environment(folder: Path, requirements: Path) -> Path:
    """Make it and return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for found in _closure([line for line in requirements.read_text().splitlines() if line.strip()]).values():
        tops = {file.parts[0] for file in found.files or [] if file.parts[0] not in ("..", "__pycache__")}
        for top in sorted(tops):
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(found.locate_file(top))))
    python = folder / "bin" / "python"
    launcher = folder / "bin" / "uvicorn"  # pip would write it, and `mlflow models serve` looks for it
    launcher.write_text(_LAUNCHER.format(python=python))
    launcher.chmod(0o755)
    return python


def _closure(lines: list[str]) -> dict[str, Distribution]:
    """Return every distribution that requirements pull in, by name; one that is pinned must be here at that version."""
    found: dict[str, Distribution] = {}
    wanted = [(Requirement(line), "") for line in lines]
    seen: set[tuple[str, str]] = set()
    while wanted:
        requirement, asked_by = wanted.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": asked_by}):
            continue
        name = canonicalize_name(requirement.name)
        here = found.setdefault(name, distribution(requirement.name))
        assert requirement.specifier.contains(here.version.split("+")[0], prereleases=True), f"{requirement}: {here.version}"
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                wanted += [(Requirement(line), extra) for line in here.requires or []]
    return found
