"""dvc.yaml is the only graph: what else knows of stages must agree with it."""

import ast
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml

from flows.stages import stage_order
from tasks.train.identity import CANNOT_CHANGE_RESULTS, FIRST_PARTY, STAGE
from tlora.metadata.digests import code_files

ROOT = Path(__file__).parents[1]
SHARED_SECTIONS = {"model", "promote", "retrain", "trust", "licence"}  # sections of params.yaml that belong to no stage


def stages() -> dict[str, dict[str, Any]]:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def test_every_stage_runs_the_module_of_its_name():
    assert {name: f"python -m tasks.{name} " in " ".join(stage["cmd"].split()) + " " for name, stage in stages().items()} == (
        dict.fromkeys(stages(), True)
    )


def test_every_command_of_tasks_is_a_stage():
    files = [*(ROOT / "tasks").glob("*.py"), *(ROOT / "tasks").glob("*/__main__.py")]
    commands = {(path.parent if path.stem == "__main__" else path).stem for path in files if "    run_stage(" in path.read_text()}
    assert commands == set(stages())


@pytest.mark.parametrize("params", ["params.yaml", *sorted(f"params/{file.name}" for file in (ROOT / "params").glob("*.yaml"))])
def test_every_section_of_params_belongs_to_a_stage_or_to_several(params: str):
    sections = set(yaml.safe_load((ROOT / params).read_text()))
    assert sections - SHARED_SECTIONS == set(stages()) - {"register"}  # which has nothing to set


@pytest.mark.slow
def test_the_flow_runs_every_stage_after_what_it_depends_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    order = stage_order()
    assert {node for node in order if not node.endswith(".dvc")} == set(stages())
    assert [node.endswith(".dvc") for node in order] == sorted((node.endswith(".dvc") for node in order), reverse=True)
    for name, stage in stages().items():
        for maker in makers_of(stage["deps"]):
            assert order.index(maker) < order.index(name), f"{maker} must come before {name}"


def makers_of(deps: list[str]) -> list[str]:
    """Return the stages with an output that is, holds, or lies in one of these paths."""
    outs = {Path(out): name for name, stage in stages().items() for out in outs_of(stage)}
    return [name for out, name in outs.items() if any(lies_in(Path(dep), out) or lies_in(out, Path(dep)) for dep in deps)]


def outs_of(stage: dict[str, Any]) -> list[str]:
    listed = [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]
    return [next(iter(out)) if isinstance(out, dict) else out for out in listed]


def lies_in(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents


# Listed with its room and not imported: a change there runs a stage again that need not run. Train, which is dear, has none.
NOT_IMPORTED: dict[str, dict[str, str]] = {
    "validate": {
        "tasks/pages": "charts gallery inline scores",
        "tlora/flux": "cached latents model noise prior_folder quantise",
        "tlora/runtime": "device_lock lean_imports",
    },
    "cache_prompts": {
        "tlora/flux": "latents model noise prior_folder quantise",
        "tlora/pictures": "boxes cicp decode described files heif icc loss_mask samples views",
        "tlora/runtime": "device_lock",
    },
    "cache_latents": {"tlora/flux": "prior_folder", "tlora/pictures": "tokens"},
    "draw_prior": {  # lean_imports is for what is dear to import; it imports that only where it draws
        "tlora/metadata": "adapter digests",
        "tlora/pictures": "manifest",
        "tlora/runtime": "lean_imports",
    },
    "evaluate": {"tlora/flux": "prior_folder", "tlora/pictures": "files loss_mask tokens"},
}


@pytest.mark.parametrize("stage", ["validate", "cache_prompts", "cache_latents", "draw_prior", "train", "evaluate", "register"])
def test_what_a_stage_imports_lies_under_its_deps_and_what_else_lies_there_is_known(stage: str):
    graph = grimp.build_graph("tasks", "tlora", cache_dir=None)
    entry = next(module for module in (f"tasks.{stage}.__main__", f"tasks.{stage}") if module in graph.modules)
    imported = {str(file_of(module)) for module in {entry, *graph.find_upstream_modules(entry)}} - EMPTY_PACKAGES
    listed = {str(file) for dep in stages()[stage]["deps"] for file in code_in(dep)} - EMPTY_PACKAGES
    assert sorted(imported - listed) == []
    known = {f"{room}/{name}.py" for room, names in NOT_IMPORTED.get(stage, {}).items() for name in names.split()}
    if stage != "register":  # it runs always
        assert sorted(listed - imported) == sorted(known)


def test_the_dependencies_of_all_stages_can_be_read_at_a_glance():
    assert sum(len(stage["deps"]) for stage in stages().values()) <= 140


def file_of(module: str) -> Path:
    path = Path(*module.split("."))
    return path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py")


def code_in(dep: str) -> list[Path]:
    if dep.endswith(".py"):
        return [Path(dep)]
    return [path.relative_to(ROOT) for path in (ROOT / dep).rglob("*.py")] if dep.startswith(("tasks", "tlora")) else []


EMPTY_PACKAGES = {str(file.relative_to(ROOT)) for top in ("tasks", "tlora") for file in (ROOT / top).rglob("__init__.py")}


@pytest.mark.parametrize("package", sorted(EMPTY_PACKAGES))
def test_packages_hold_no_code_so_that_no_stage_depends_on_them(package: str):
    assert len(ast.parse((ROOT / package).read_text()).body) == 1  # the docstring


def test_the_code_digest_of_a_run_covers_exactly_the_files_that_train_lists():
    """A digest of a package's empty `__init__` would never change, and a run would go on from a state of other code."""
    digested = {str(file.relative_to(ROOT)) for file in code_files(STAGE, FIRST_PARTY, CANNOT_CHANGE_RESULTS).values()}
    shown = tuple(module.replace(".", "/") for module in CANNOT_CHANGE_RESULTS)
    listed = {str(file) for dep in stages()["train"]["deps"] for file in code_in(dep)}
    assert sorted(digested - EMPTY_PACKAGES) == sorted(file for file in listed - EMPTY_PACKAGES if not file.startswith(shown))
    assert len(digested - EMPTY_PACKAGES) >= 40
