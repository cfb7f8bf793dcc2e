"""A server that speaks the few calls of the Hugging Face hub that an upload makes. It is no proof of the real one."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_mortar"


@dataclass
class Hub:
    """What was sent: the repository's making, and its files; large ones come apart from the commit."""

    address: str = ""
    made: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    card_errors: list[str] = field(default_factory=list)
    status: int = 200  # of what is answered to a repository's making


@contextmanager
def local_hub() -> Iterator[Hub]:
    """Lend a hub on a free port of this machine."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_POST(self) -> None:
        body = self._body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer({"error": "Invalid credentials"}, 401)
        if self.path == "/api/repos/create":
            self.hub.made.append(json.loads(body))
            return self._answer({"url": f"{self.hub.address}/ann/brick"}, self.hub.status)
        if self.path == "/api/validate-yaml":
            errors = [{"message": text} for text in self.hub.card_errors]
            return self._answer({"errors": errors, "warnings": []}, 400 if errors else 200)
        if "/preupload/" in self.path:
            return self._answer({"files": [self._mode(file["path"]) for file in json.loads(body)["files"]]})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            upload = {each["oid"]: {"upload": {"href": f"{self.hub.address}/upload/{each['oid']}"}} for each in objects}
            return self._answer({"transfer": "basic", "objects": [each | {"actions": upload[each["oid"]]} for each in objects]})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                self._take(line["key"], line["value"])
            return self._answer({"commitUrl": f"{self.hub.address}/ann/brick/commit/5a5a", "commitOid": "5a5a"})
        return self._answer({"error": f"unknown: {self.path}"}, 404)

    def do_PUT(self) -> None:
        self.hub.uploads[self.path.rsplit("/", 1)[-1]] = self._body()
        self._answer({})

    def log_message(self, *args: object) -> None:
        pass

    def _mode(self, path: str) -> dict[str, Any]:
        return {"path": path, "uploadMode": "lfs" if path.endswith(".safetensors") else "regular", "shouldIgnore": False}

    def _take(self, key: str, value: dict[str, str]) -> None:
        if key == "file":
            self.hub.files[value["path"]] = base64.b64decode(value["content"])
        if key == "lfsFile":
            self.hub.files[value["path"]] = self.hub.uploads[value["oid"]]

    def _body(self) -> bytes:
        self.hub.calls.append(f"{self.command} {self.path}")
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, value: dict[str, Any], status: int = 200) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
