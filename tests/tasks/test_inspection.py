import json
from pathlib import Path

from tests.tasks.data_folder import run
from tlora.base_model import ModelSpec
from tlora.manifest import read_manifest


def test_an_unchanged_picture_is_not_decoded_again_and_a_damaged_memory_is(data: Path, base: ModelSpec) -> None:
    run(base)
    kept = sorted(Path(".state/cache/validate").glob("*/*/*.json"))
    assert len(kept) == 6
    kept[0].write_text(kept[0].read_text().replace('"width": 96', '"width": 960'))
    kept[1].write_text("{")
    run(base)
    assert {
        item.width for name in ("train", "held_out") for item in read_manifest(Path(f"artifacts/manifest/{name}.json")).items
    } == {
        96,
        960,
    }
    assert "thumbnail" in json.loads(kept[1].read_text())
