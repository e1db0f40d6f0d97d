"""A real S3 server for tests: moto's, in a process of its own, which a test may kill and start again."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import boto3
import httpx

BUCKET = "shelf"
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDKEY000001",
    "AWS_SECRET_ACCESS_KEY": "planted+secret/of-the-test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
START_S = 60.0
_SERVER = """
import sys, time
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=int(sys.argv[1]), verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
time.sleep(3600)
"""


@dataclass
class ObjectStore:
    """Args: port: of the server on this machine; process: that serves."""

    port: int
    process: "subprocess.Popen[str]"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> Mapping[str, str]:
        """Of a process that shall use it."""
        return {**KEYS, "AWS_ENDPOINT_URL": self.endpoint}

    @property
    def client(self) -> "boto3.client":
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=KEYS["AWS_DEFAULT_REGION"],
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        )

    def names(self, prefix: str = "") -> list[str]:
        """Keys in the bucket below a prefix, without it."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [entry["Key"].removeprefix(prefix) for page in pages for entry in page.get("Contents", ())]

    def read(self, name: str) -> bytes:
        return bytes(self.client.get_object(Bucket=BUCKET, Key=name)["Body"].read())

    def deny(self, *actions: str) -> None:
        """From now on nobody may do these, such as `s3:PutObject`; none: all may do all."""
        if not actions:
            self.client.delete_bucket_policy(Bucket=BUCKET)
            return
        everything = [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"]
        statement = {"Effect": "Deny", "Principal": "*", "Action": list(actions), "Resource": everything}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self.client.put_bucket_policy(Bucket=BUCKET, Policy=policy)

    def clear(self) -> None:
        """As it was at first: an empty bucket."""
        httpx.post(f"{self.endpoint}/moto-api/reset", timeout=20)
        self.client.create_bucket(Bucket=BUCKET)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=20)

    def start_again(self) -> None:
        """At the same address, with nothing in it: it keeps all in memory."""
        self.process = _start(self.port)[0]
        self.client.create_bucket(Bucket=BUCKET)


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    process, port = _start(0)
    store = ObjectStore(port, process)
    try:
        store.client.create_bucket(Bucket=BUCKET)
        yield store
    finally:
        store.kill()


def _start(port: int) -> tuple["subprocess.Popen[str]", int]:
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **KEYS},
    )
    assert process.stdout is not None
    found = int(process.stdout.readline())
    deadline = time.monotonic() + START_S
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{found}/moto-api/", timeout=5)
        except httpx.HTTPError:
            assert time.monotonic() < deadline, "the S3 server did not start"
            time.sleep(0.1)
        else:
            return process, found
