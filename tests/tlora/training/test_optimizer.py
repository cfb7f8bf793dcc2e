"""Rates by hand, steps against torch's own optimizer, and a state that comes back from tensors and JSON."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from tlora.errors import SettingsError
from tlora.training.optimizer import OptimizerSettings, build_optimizer, learning_rate, optimizer_tensors, restore_optimizer

SETTINGS = OptimizerSettings(learning_rate=0.8, adam_beta1=0.8, adam_beta2=0.95, adam_weight_decay=0.1, adam_epsilon=1e-6)


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.randn(3, 2, generator=torch.Generator().manual_seed(0)))


def walk(optimizer: torch.optim.Optimizer, moved: nn.Parameter, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        (moved**3).sum().backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.4, 0.8, 0.8, 0.8, 0.8, 0.8]),
        ("linear", [0.4, 0.8, 0.8, 0.6, 0.4, 0.2]),
        ("cosine", [0.4, 0.8, 0.8, 0.682843, 0.4, 0.117157]),
    ],
)
def test_the_rate_warms_up_then_follows_its_schedule(schedule: str, rates: list[float]) -> None:
    settings = replace(SETTINGS, lr_schedule=schedule, lr_warmup_steps=2)
    assert [learning_rate(settings, step, 6) for step in range(6)] == pytest.approx(rates, abs=1e-6)


def test_no_step_has_rate_zero_with_or_without_warm_up() -> None:
    for warm_up in (0, 1, 6, 9):
        for schedule in ("constant", "linear", "cosine"):
            settings = replace(SETTINGS, lr_schedule=schedule, lr_warmup_steps=warm_up)
            assert all(learning_rate(settings, step, 6) > 0 for step in range(6))


def test_adamw_has_the_betas_decay_and_epsilon_asked_for() -> None:
    ours, theirs = parameter(), parameter()
    walk(build_optimizer([ours], SETTINGS), ours, 5)
    walk(torch.optim.AdamW([theirs], lr=0.8, betas=(0.8, 0.95), weight_decay=0.1, eps=1e-6), theirs, 5)
    torch.testing.assert_close(ours, theirs)


def test_a_state_of_tensors_and_json_continues_to_the_bit() -> None:
    unbroken, broken = parameter(), parameter()
    walk(build_optimizer([unbroken], SETTINGS), unbroken, 7)
    first = build_optimizer([broken], SETTINGS)
    walk(first, broken, 4)
    tensors, plain = optimizer_tensors(first)
    tensors, plain = {name: t.clone() for name, t in tensors.items()}, json.dumps(json.loads(plain))
    second = build_optimizer([broken], SETTINGS)
    restore_optimizer(second, tensors, plain)
    walk(second, broken, 3)
    assert torch.equal(broken, unbroken)


@pytest.mark.parametrize(("optimizer", "package"), [("adamw8bit", "bitsandbytes"), ("prodigy", "prodigyopt")])
def test_an_optimizer_whose_library_is_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, optimizer: str, package: str
) -> None:
    for module in (package, f"{package}.optim"):
        monkeypatch.setitem(sys.modules, module, None)
    message = rf"optimizer '{optimizer}' needs the package {package}\S*: pip install 'flux-tlora\[optimizers\]'"
    with pytest.raises(SettingsError, match=message):
        build_optimizer([parameter()], replace(SETTINGS, optimizer=optimizer))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.0}, r"learning_rate must be positive, got 0\.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive, got nan"),
        ({"adam_beta1": 1.0}, r"adam_beta1 must be in \[0, 1\), got 1\.0"),
        ({"adam_beta2": -0.1}, r"adam_beta2 must be in \[0, 1\), got -0\.1"),
        ({"adam_epsilon": 0.0}, r"adam_epsilon must be positive, got 0\.0"),
        ({"adam_weight_decay": -1.0}, r"adam_weight_decay must not be negative, got -1\.0"),
        ({"lr_warmup_steps": -1}, "lr_warmup_steps must not be negative, got -1"),
        ({"max_grad_norm": -1.0}, r"max_grad_norm must not be negative, got -1\.0"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **changes)
