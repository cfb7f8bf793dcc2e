"""A base that stays in memory draws what `tlora infer` draws, whatever was drawn before, and waits for the device."""

from pathlib import Path

import pytest

from tests.tlora.commands.workplace import adapter_file
from tlora.cli import main
from tlora.drawing.warm import Wanted, WarmBase
from tlora.errors import SettingsError
from tlora.flux.spec import ModelSpec
from tlora.metadata.config import TLoRAConfig
from tlora.runtime import device_lock
from tlora.sampling import SampleSettings
from tlora.schedule import RankSchedule

SAMPLE = SampleSettings(width=16, height=16, num_inference_steps=3)
CFG = TLoRAConfig(rank=4, min_rank=1, alpha=4)


@pytest.fixture
def warm(base: Path, folder: Path) -> WarmBase:
    adapter_file(folder / "one/tlora_weights.safetensors", CFG, ("to_q", "to_v"), 1)
    return WarmBase(ModelSpec(str(base)), 16)


def wanted(adapter: str = "", seed: int = 3, sample: SampleSettings = SAMPLE) -> Wanted:
    return Wanted(Path(adapter) if adapter else None, 0.5, "a matbrk wall", seed, sample)


def test_adapters_take_turns_and_each_picture_is_drawn_again_to_the_bit(
    warm: WarmBase, capsys: pytest.CaptureFixture[str]
) -> None:
    first = warm.draw(wanted("one"), Path("1.png"), print)
    bare = warm.draw(wanted(), Path("2.png"), print)
    again = warm.draw(wanted("one"), Path("3.png"), print)
    assert first.picture.tobytes() == again.picture.tobytes()
    assert first.picture.tobytes() != bare.picture.tobytes()
    for name in ("1.png", "2.png"):
        main(["infer", "--like", name])
    said = capsys.readouterr().out
    assert "1_again.png: bit-equal to 1.png" in said
    assert "2_again.png: bit-equal to 2.png" in said


def test_the_ranks_of_each_step_are_those_of_the_formula(warm: WarmBase) -> None:
    drawn = warm.draw(wanted("one"), Path("1.png"), print)
    painter = warm._painter
    assert painter is not None
    assert list(drawn.ranks) == RankSchedule(4, 1).active_rank(painter.scheduler.timesteps.float()).tolist()
    assert drawn.ranks[0] < drawn.ranks[-1] <= 4
    assert warm.draw(wanted(), Path("2.png"), print).ranks == ()


def test_it_waits_for_the_device_and_says_for_whom(warm: WarmBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_lock.tempfile, "gettempdir", lambda: str(tmp_path))
    holder = device_lock.hold_device("cpu", "train")
    holder.__enter__()
    monkeypatch.setattr(device_lock.time, "sleep", lambda _: holder.__exit__(None, None, None))
    said: list[str] = []
    warm.draw(wanted(), Path("1.png"), said.append)
    assert len(said) == 1
    assert said[0].startswith("waiting for cpu, held by process ")
    assert "(train in " in said[0]


def test_what_cannot_be_drawn_is_refused_and_the_next_one_is_drawn(warm: WarmBase) -> None:
    with pytest.raises(SettingsError, match="width and height must be multiples of"):
        warm.draw(wanted("one", sample=SampleSettings(width=15, height=16)), Path("1.png"), print)
    assert not Path("1.png").exists()
    assert warm.draw(wanted("one"), Path("2.png"), print).file.exists()
