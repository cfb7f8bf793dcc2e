"""What each command must not import before its first useful work: a second or more for torch, ten for diffusers."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers", "diffusers", "accelerate", "mlflow", "prefect", "scipy", "pandas"}
COMMANDS = {
    "tasks.validate": HEAVY - {"transformers"},  # it counts tokens
    "tasks.draw_prior": HEAVY,  # torch once it draws
    "tasks.register": HEAVY,  # mlflow once its inputs have been read
    "tasks.new": HEAVY,
    "tasks.restore_data": HEAVY,
    "flows.plan": HEAVY,
    "flows.prune": HEAVY,
    "flows.promote": HEAVY - {"prefect"},
    "tlora.cli": HEAVY,
    "tasks.cache_prompts.stage": {"diffusers", "mlflow", "prefect"},
    "dvc.cli, dvc.commands.repro, tasks.cache_latents.stage, tasks.train.stage, tasks.evaluate.stage": {"mlflow", "prefect"},
}
SLOW = [name for name in COMMANDS if "tlora.flux.cached" in name or name == "flows.promote"]


@pytest.mark.parametrize("command", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in COMMANDS])
def test_a_command_imports_nothing_heavy_that_it_does_not_need_to_begin(command: str):
    check = f"import sys, {command}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(run.stdout.split()) & COMMANDS[command] == set()


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["doctor", "--help"], ["inspect", "--help"]])
def test_help_is_printed_without_anything_heavy(arguments: list[str]):
    check = (
        "import atexit, sys; from tlora.cli import main; sys.argv[0] = 'tlora'\n"
        f"atexit.register(lambda: print('imported', *sys.modules)); main({arguments})"
    )
    run = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    said, imported = run.stdout.split("imported ")
    assert said.startswith("usage: tlora")
    assert set(imported.split()) & HEAVY == set()


# What the computing commands must have left out once all of their own is imported, though an environment for tests has it.
UNUSED = {"bitsandbytes", "boto3", "dvc", "mlflow", "pandas", "peft", "prefect", "scipy", "sklearn", "torch._inductor.compile_fx"}
STARTED = {
    "tasks.cache_prompts": UNUSED | {"diffusers"},
    "tasks.cache_latents": UNUSED | {"transformers"},
    "tasks.train": UNUSED | {"transformers"},
    "tasks.evaluate": UNUSED,
}


@pytest.mark.parametrize("command", list(STARTED))
def test_a_computing_stage_starts_without_what_others_drag_in(command: str):
    run_it = f"runpy.run_module({command!r}, run_name='__main__')"
    assert started(f"import atexit, runpy, sys; sys.argv[1:] = ['--help']\nTOLD\n{run_it}") & STARTED[command] == set()


def test_drawing_starts_without_what_others_drag_in():
    given = "['infer', '--config', 'configs/pocket.yaml', '--prompt', 'x', '--lora_path', 'none', '--outdir', '/proc/none']"
    imported = started(f"import atexit, sys\nTOLD\nfrom tlora.cli import main; main({given})")
    assert {"tlora.drawing.draw", "tlora.text"} <= imported  # it came as far as drawing
    assert imported & UNUSED == set()


def started(check: str) -> set[str]:
    told = "atexit.register(lambda: print('imported', *sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", check.replace("TOLD", told)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return set(run.stdout.split("imported ")[1].split())
