"""What a run is a function of, and that whoever looks for the run of a version finds it by that."""

import json
from pathlib import Path

import pytest
import yaml

from tasks.train.identity import Inputs, TrainSettings, describe_adapter, fingerprint_fields, shaping_params
from tlora.flux.cached import CLASS_INDEX, INDEX
from tlora.flux.spec import ModelSpec
from tlora.metadata.digests import params_digest
from tlora.runtime.settings import parse_settings

PARAMS = Path(__file__).parents[3] / "params/pocket.yaml"


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    for name in ("prompts", "latents"):
        (tmp_path / name).mkdir()
        (tmp_path / name / INDEX).write_text(json.dumps({"data_digest": "data-1", "of": name}))
    (tmp_path / "base").mkdir()
    (tmp_path / "concept.yaml").write_text("name: brick\ntrigger: matbrk\nheld_out: [b.png]\nprompts: [a matbrk wall]\n")
    return Inputs(tmp_path / "prompts", tmp_path / "latents", tmp_path / "prior", tmp_path / "concept.yaml")


def test_without_preservation_nothing_hangs_on_it_and_with_it_on_what_is_preserved(inputs: Inputs) -> None:
    given, model = yaml.safe_load(PARAMS.read_text())["train"], ModelSpec(str(inputs.latents.parent / "base"))

    def digest(**changes: float) -> str:
        return describe_adapter(parse_settings(TrainSettings, given | changes, "train"), model, inputs).params_digest

    off = digest(preserve=0.0, preserve_share=0.25)
    assert "preserve" not in json.dumps(shaping_params(parse_settings(TrainSettings, given | {"preserve": 0.0}, "train"), model))
    assert digest(preserve=0.0, preserve_share=0.5) == off
    found = {off}
    for of_class in ("a brick wall", "a stone wall"):
        (inputs.prompts / CLASS_INDEX).write_text(json.dumps({"items": [{"caption": of_class, "of": "a matbrk wall"}]}))
        assert digest(preserve=0.0) == off
        found |= {digest(preserve=1.0), digest(preserve=2.0)}
    assert len(found) == 5


def test_without_an_early_end_nothing_hangs_on_its_settings(inputs: Inputs) -> None:
    given, model = yaml.safe_load(PARAMS.read_text())["train"], ModelSpec(str(inputs.latents.parent / "base"))
    (inputs.prompts / CLASS_INDEX).write_text(json.dumps({"items": [{"caption": "a brick wall", "of": "a matbrk wall"}]}))

    def digest(**changes: float) -> str:
        return describe_adapter(parse_settings(TrainSettings, given | changes, "train"), model, inputs).params_digest

    assert digest(stop_min_gain=0.2) == digest(stop_max_drift=2.0) == digest()
    assert len({digest(), digest(stop_patience=1), digest(stop_patience=1, stop_min_gain=0.2)}) == 3


def test_a_runs_state_and_its_adapters_say_by_one_digest_what_was_asked_for(inputs: Inputs) -> None:
    given = yaml.safe_load(PARAMS.read_text())["train"]
    model = ModelSpec(str(inputs.latents.parent / "base"))
    digests = set()
    for rate in (1e-3, 1e-4):
        settings = parse_settings(TrainSettings, given | {"learning_rate": rate}, "train")
        metadata = describe_adapter(settings, model, inputs)
        fields = fingerprint_fields(settings, model, inputs, metadata, processes=1)
        assert params_digest(json.loads(json.dumps(fields))) == metadata.params_digest
        assert (fields["base_revision"], fields["data"]) == (metadata.base_revision, "data-1")
        digests.add(metadata.params_digest)
    assert len(digests) == 2
