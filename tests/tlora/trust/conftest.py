"""Signed folders, and an adapter that nobody signed."""

from pathlib import Path

import pytest

from tests.tiny_flux import tiny_transformer
from tests.tlora.trust.signed_folder import Signed, make_signed
from tlora.checkpoint import save_tlora_weights
from tlora.inject import inject_tlora_into_transformer
from tlora.metadata.adapter import WEIGHTS_FILE
from tlora.metadata.config import TLoRAConfig


@pytest.fixture
def signed(tmp_path: Path) -> Signed:
    return make_signed(tmp_path / "mine")


@pytest.fixture
def other(tmp_path: Path) -> Signed:
    return make_signed(tmp_path / "theirs")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """Return the folder of an adapter."""
    transformer = tiny_transformer()
    inject_tlora_into_transformer(transformer, ["to_q"], TLoRAConfig(rank=4, min_rank=1, alpha=4))
    save_tlora_weights(transformer, tmp_path / "adapter" / WEIGHTS_FILE)
    return tmp_path / "adapter"
