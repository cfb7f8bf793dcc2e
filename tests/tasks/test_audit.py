"""`make audit` against a local server that answers as OSV does; no advisory service is reached where tests run."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tasks.audit import main

KNOWN = {
    "id": "PYSEC-2026-1",
    "aliases": ["CVE-2026-0001"],
    "summary": "Bricks fall.",
    "modified": "2026-01-01T00:00:00Z",
    "affected": [
        {
            "package": {"name": "brick", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
            "versions": ["1.0"],
        }
    ],
}


class Advisories(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = json.dumps({"vulns": [KNOWN]} if asked["package"]["name"] == "brick" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def osv() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Advisories)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()
    server.server_close()


def test_what_is_known_is_named_with_the_version_that_mends_it(
    osv: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pins.txt").write_text("brick==1.0\nmortar==2.0\n")
    assert main(["--requirements", str(tmp_path / "pins.txt"), "--osv-url", osv]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "audit: brick 1.0: PYSEC-2026-1, CVE-2026-0001; fixed in 1.1",
        "audit: 1 known vulnerabilities in 2 packages",
    ]
    (tmp_path / "pins.txt").write_text("mortar==2.0\n")
    assert main(["--requirements", str(tmp_path / "pins.txt"), "--osv-url", osv]) == 0


def test_where_nobody_is_reached_that_is_the_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pins.txt").write_text("mortar==2.0\n")
    assert main(["--requirements", str(tmp_path / "pins.txt"), "--osv-url", "http://127.0.0.1:9/v1/query"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("audit: error: no advisory service was reached, so nothing is known of any package: ")
    assert said.count("\n") == 1
