"""An S3 server, as `make serve STORE=s3` starts it, with keys of its own, which can be stopped and started again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from flows.crew import answers
from flows.s3_server import BUCKET, s3_server
from tests.services.processes import Server, free_port

NAME, SECRET = "mason", "trowel-" + "and-" + "plumb" * 3  # spelt so that no file holds it


@dataclass(frozen=True)
class S3:
    """The server, and what clients need in their environment."""

    server: Server
    environment: dict[str, str]

    def client(self) -> Any:
        """Return boto3's own client of it."""
        return boto3.client(
            "s3", endpoint_url=self.environment["AWS_ENDPOINT_URL"], aws_access_key_id=NAME, aws_secret_access_key=SECRET
        )

    def objects(self, prefix: str) -> dict[str, int]:
        """Return the size of every object below a prefix, by key."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])}


@contextmanager
def open_s3(folder: Path) -> Iterator[S3]:
    """Start a server with an empty bucket."""
    keys = {"AWS_ACCESS_KEY_ID": NAME, "AWS_SECRET_ACCESS_KEY": SECRET}
    found = s3_server(folder / "bucket", free_port())

    def ready() -> bool:
        return answers(found.ready) and answers(f"{found.endpoint}/healthz")  # a bucket of before is there sooner than S3

    server = Server(list(found.command), folder / "s3.log", ready, os.environ | keys, folder)
    server.start()
    try:
        yield S3(server, keys | {"AWS_ENDPOINT_URL": found.endpoint, "AWS_EC2_METADATA_DISABLED": "true"})
    finally:
        server.stop()
