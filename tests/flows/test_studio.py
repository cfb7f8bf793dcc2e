"""The studio beside `make serve`: who comes, what is given out and taken there, and training that is asked for and cancelled."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from studio.page import LOGIN
from tests.browser import Browser
from tests.flows.served import Served
from tests.services.studio import Studio, start, visiting

pytestmark = pytest.mark.slow

LONG = {"max_train_steps": 100_000, "checkpointing_steps": 50_000, "state_steps": 100_000}  # saved when asked to stop, or never
HUGE = 513  # MB


def environment_of(served: Served) -> dict[str, str]:
    """Return what somebody has in his environment who was told nothing of the servers."""
    named = {name: value for name, value in served.environment.items() if name != "PREFECT_API_URL"}
    return named | {"PYTHONPATH": str(served.clone.folder), "TMPDIR": str(served.clone.folder.parent)}


@pytest.fixture(scope="module")
def studio(served: Served) -> Iterator[Studio]:
    opened = start(served.clone.folder, environment_of(served) | {"GRADIO_ALLOWED_PATHS": "/etc", "GRADIO_SHARE": "True"})
    yield opened
    opened.stop()


def test_nobody_reads_what_is_not_the_pages_and_nobody_comes_from_elsewhere(served: Served, studio: Studio) -> None:
    with httpx.Client(base_url=studio.address) as guest:
        answer = guest.get("/")
        assert answer.status_code == 200
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        paths = ["/etc/hostname", f"{served.clone.folder}/params.yaml", "params.yaml", ".state/mlflow.lock", "data/SOURCES.md"]
        for path in [*paths, "/etc/../etc/hostname", "/proc/self/environ", "http://127.0.0.1:1/x"]:
            assert guest.get(f"/gradio_api/file={path}").status_code in (403, 404), path
        assert guest.get(f"/gradio_api/proxy={served.mlflow}/version").status_code == 400
        assert guest.get("/", headers={"Host": "kiln.example"}).status_code == 400
        config = guest.get("/config").json()
        take = next(each for each in config["dependencies"] if len(each["inputs"]) == 4 and len(each["outputs"]) == 1)
        file = {"path": "/etc/hostname", "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
        asked = {"data": [[file], "matbrk", "wall", True], "fn_index": take["id"], "session_hash": "hostile"}
        guest.post("/gradio_api/queue/join", json=asked)
        said = guest.get("/gradio_api/queue/data", params={"session_hash": "hostile"}, timeout=60).text
        assert '"success":false' in said.replace(" ", "") or "was not uploaded here" in said, said
        assert (served.clone.folder / "data/images").is_dir()


def test_what_arrives_is_kept_among_the_uploads_and_a_huge_file_not_at_all(studio: Studio) -> None:
    with httpx.Client(base_url=f"{studio.address}/gradio_api", timeout=300) as guest:
        uploads = studio.folder / ".state/studio/uploads"
        (arrived,) = guest.post("/upload", files={"files": ("../../../../params.yaml", b"secret: 1")}).json()
        assert (Path(arrived).name, Path(arrived).parents[1]) == ("params.yaml", uploads.resolve())
        head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="huge.png"\r\n\r\n'
        huge = (part for part in (head, *[bytes(2**20)] * HUGE, b"\r\n--b--\r\n"))
        answer = guest.post("/upload", content=huge, headers={"Content-Type": "multipart/form-data; boundary=b"})
        assert (answer.status_code, answer.text) == (413, "File size exceeded maximum allowed size of 536870912 bytes.")
        assert sum(path.stat().st_size for path in uploads.rglob("*") if path.is_file()) < 2**20


def test_who_signs_in_is_asked_for_name_and_password(served: Served) -> None:
    opened = start(served.clone.folder, environment_of(served) | {LOGIN: "ann:trowel,bob:plumb"})
    try:
        with httpx.Client(base_url=opened.address) as guest:
            assert guest.get("/config").status_code == 401
            assert guest.post("/gradio_api/upload", files={"files": ("a.png", b"")}).status_code == 401
            assert guest.post("/login", data={"username": "ann", "password": "plumb"}).status_code == 400
            assert guest.post("/login", data={"username": "ann", "password": "trowel"}).status_code == 200
            assert guest.get("/config").status_code == 200
    finally:
        opened.stop()


def test_training_is_asked_of_the_deployment_and_cancelling_it_saves(served: Served, studio: Studio, browser: Browser) -> None:
    before = states(served)
    served.clone.change_params("params.yaml", {f"train.{name}": value for name, value in LONG.items()})
    with visiting(browser, studio) as ann, visiting(browser, studio) as bob:
        ann.press("Train")
        run = ann.reads("asked for run").split()[3].rstrip(":")
        bob.press("Train")
        bob.reads("a run is under way")
        for person in (ann, bob):
            person.go("Watch")
            person.page.get_by_role("cell", name="running", exact=True).wait_for()
        bob.page.get_by_text(re.compile("^step [1-9].* of 100000")).wait_for()
        address = bob.page.get_by_role("link").first.get_attribute("href")
        assert address == f"{served.url.removesuffix('/api')}/runs/flow-run/{run}"
        bob.press("Cancel what runs (it saves first)")
        bob.reads("is asked to save and to end")
        ann.page.get_by_role("cell", name="cancelled", exact=True).wait_for()
    assert served.wait(run)["state_type"] == "CANCELLED"
    assert states(served) - before
    served.clone.run("git", "checkout", "--quiet", "params.yaml")


def states(served: Served) -> set[Path]:
    return set(served.clone.folder.glob(".state/train/*/state-*"))
