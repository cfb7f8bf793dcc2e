"""Who comes to the studio, and what is given out there: real servers beside it, no browser."""

import httpx
import pytest

from studio.page import LOGIN
from tests.flows.served import Served
from tests.services.studio import start

pytestmark = pytest.mark.slow


def environment_of(served: Served) -> dict[str, str]:
    """Return what somebody has in his environment who was told nothing of the servers."""
    named = {name: value for name, value in served.environment.items() if name != "PREFECT_API_URL"}
    return named | {"PYTHONPATH": str(served.clone.folder), "TMPDIR": str(served.clone.folder.parent)}


def test_nobody_reads_what_is_not_the_pages_and_nobody_comes_from_elsewhere(served: Served) -> None:
    told = {LOGIN: "ann:trowel,bob:plumb", "GRADIO_ALLOWED_PATHS": "/etc", "GRADIO_SHARE": "True"}
    opened = start(served.clone.folder, environment_of(served) | told)
    try:
        guest = httpx.Client(base_url=opened.address)
        assert guest.get("/config").status_code == 401
        assert guest.post("/login", data={"username": "ann", "password": "plumb"}).status_code == 400
        assert guest.post("/login", data={"username": "ann", "password": "trowel"}).status_code == 200
        answer = guest.get("/")
        assert answer.status_code == 200
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        for path in (
            "/etc/hostname",
            f"{served.clone.folder}/params.yaml",
            "params.yaml",
            ".state/mlflow.lock",
            "/etc/../etc/hostname",
        ):
            assert guest.get(f"/gradio_api/file={path}").status_code in (403, 404), path
        assert guest.get("/", headers={"Host": "kiln.example"}).status_code == 400
        config = guest.get("/config").json()
        take = next(each for each in config["dependencies"] if len(each["inputs"]) == 4 and len(each["outputs"]) == 1)
        file = {"path": "/etc/hostname", "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
        asked = {"data": [[file], "matbrk", "wall", True], "fn_index": take["id"], "session_hash": "hostile"}
        guest.post("/gradio_api/queue/join", json=asked)
        said = guest.get("/gradio_api/queue/data", params={"session_hash": "hostile"}, timeout=60).text
        assert '"success":false' in said.replace(" ", "") or "was not uploaded here" in said, said
        assert (served.clone.folder / "data/images").is_dir()
    finally:
        opened.stop()
