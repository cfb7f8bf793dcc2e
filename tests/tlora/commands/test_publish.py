"""`tlora publish` against a local server that speaks the few calls of an upload: no proof of the real hub."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.hub import TOKEN, Hub, local_hub
from tests.tlora.commands.test_card import save_adapter
from tlora.cli import main
from tlora.trust.keys import make_keys
from tlora.trust.signing import sign, verify_adapter

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own upload
PUBLISH = ["publish", "adapters/final", "--repo", "ann/brick"]
WEIGHTS = Path("adapters/final/tlora_weights.safetensors")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with local_hub() as hub:
        yield hub


@pytest.fixture(autouse=True)
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    """An adapter of a base on the hub, in the current folder, and a token."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # by which the real one takes large files
    save_adapter("black-forest-labs/FLUX.1-dev")


def test_without_yes_it_says_what_would_go_and_sends_nothing(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    main(PUBLISH)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "would go to ann/brick (private, where it is made):"
    assert [line.split()[0] for line in said[1:3]] == ["README.md", "tlora_weights.safetensors"]
    assert said[3:] == [
        "licences: base: flux-1-dev-non-commercial-license; data: nobody said; adapter: flux-1-dev-non-commercial-license",
        "nothing was sent: --yes sends it",
    ]
    assert hub.calls == []


def test_with_yes_card_adapter_grid_and_signature_arrive_as_they_are(
    hub: Hub, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    private, public = make_keys(tmp_path_factory.mktemp("keys"))
    Path("params.yaml").write_text(f"trust: {{public_key: {public}}}")
    with pytest.raises(SystemExit, match=r"tlora_weights\.safetensors: is not signed"):
        main([*PUBLISH, "--yes"])
    assert hub.calls == []
    sign(WEIGHTS, Path("adapters/final.sig"), private)
    Path("grid.png").write_bytes(b"picture")
    main([*PUBLISH, "--yes", "--grid", "grid.png"])
    assert capsys.readouterr().out == f"{hub.address}/ann/brick/commit/5a5a\n"
    assert sorted(hub.files) == ["README.md", "adapter.sig", "grid.png", "tlora_weights.safetensors"]
    assert hub.files["tlora_weights.safetensors"] == WEIGHTS.read_bytes()
    assert b"license_name: flux-1-dev-non-commercial-license\n" in hub.files["README.md"]
    assert hub.made[0]["visibility"] == "private"
    arrived = Path("arrived")
    arrived.mkdir()
    for name, content in hub.files.items():
        (arrived / name).write_bytes(content)
    verify_adapter(arrived, public)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda hub, patch: patch.setenv("HF_TOKEN", "hf_wrong"), r"refused ann/brick \(401\): the token may not write there"),
        (lambda hub, patch: setattr(hub, "status", 403), r"refused ann/brick \(403\): the token may not write there"),
        (lambda hub, patch: hub.card_errors.append('"license" is odd'), r'does not take the card: .*"license" is odd'),
        (lambda hub, patch: patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9"), r"http://127\.0\.0\.1:9 was not reached"),
    ],
    ids=["wrong token", "not allowed", "card", "away"],
)
def test_a_hub_that_refuses_or_is_away_is_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch, change: object, words: str) -> None:
    change(hub, monkeypatch)
    with pytest.raises(SystemExit, match=words) as caught:
        main([*PUBLISH, "--yes"])
    assert "\n" not in str(caught.value)
    assert "hf_" not in str(caught.value)
    assert hub.files == {}


def test_nothing_is_sent_without_a_token_a_licence_or_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("brick", "ann/brick/wall", "ann/--"):
        with pytest.raises(SystemExit, match=f"--repo '{name}': "):
            main(["publish", "adapters/final", "--repo", name])
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with pytest.raises(SystemExit, match="no token: export HF_TOKEN with a write token"):
        main([*PUBLISH, "--yes"])
    shutil.rmtree("adapters")
    save_adapter("models/ours")
    with pytest.raises(SystemExit, match="nobody said under which licence it is"):
        main(PUBLISH)
