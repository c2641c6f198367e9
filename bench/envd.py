"""Requests to envd on a bare socket: from inside a sandbox's network namespace, or through the edge."""

import json
import socket
from pathlib import Path

from bench.floor import in_namespace
from wrenn_server.hostagent.network.base import GUEST_ADDRESS

PORT = 49983
CHUNK = 1 << 20


def straight(namespace: str, token: str) -> "Client":
    """:param namespace: name under /run/netns"""
    made = in_namespace(namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    made.connect((GUEST_ADDRESS, PORT))
    return Client(made, {"X-Access-Token": token})


def through_edge(address: str, sandbox_id: str, token: str) -> "Client":
    """:param address: HOST:PORT of the platform"""
    host, _, port = address.rpartition(":")
    headers = {"X-Access-Token": token, "E2b-Sandbox-Id": sandbox_id, "E2b-Sandbox-Port": str(PORT)}
    return Client(socket.create_connection((host, int(port))), headers)


class Client:
    """One kept connection; one request after the other."""

    def __init__(self, connected: socket.socket, headers: dict[str, str]) -> None:
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._socket = connected
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(600)
        self._reader = self._socket.makefile("rb")

    def close(self) -> None:
        self._reader.close()
        self._socket.close()

    def run(self, line: str) -> None:
        """A command through `Start`, to the end of its stream."""
        message = json.dumps({"process": {"cmd": "/bin/bash", "args": ["-l", "-c", line]}, "stdin": False})
        body = b"\0" + len(message).to_bytes(4, "big") + message.encode()
        self._send("POST", "/process.Process/Start", "application/connect+json", len(body))
        self._socket.sendall(body)
        self._answer()

    def upload(self, path: str, data: Path) -> None:
        self._send("POST", f"/files?path={path}", "application/octet-stream", data.stat().st_size)
        with data.open("rb") as file:
            self._socket.sendfile(file)
        self._answer()

    def download(self, path: str, size: int) -> None:
        self._send("GET", f"/files?path={path}", "application/octet-stream", None)
        received = self._answer()
        if received != size:
            raise RuntimeError(f"{received} bytes of {path} instead of {size}")

    def _send(self, method: str, target: str, kind: str, length: int | None) -> None:
        head = f"{method} {target} HTTP/1.1\r\nHost: envd\r\n{self._headers}"
        head += f"Connect-Protocol-Version: 1\r\nContent-Type: {kind}\r\n"
        head += "" if length is None else f"Content-Length: {length}\r\n"
        self._socket.sendall(head.encode() + b"\r\n")

    def _answer(self) -> int:
        """Reads the whole answer; the size of its body.

        :raises RuntimeError: it is not 200"""
        status = self._reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"envd answered {status!r}: {self._reader.read1()[:300]!r}")
        fields: dict[bytes, bytes] = {}
        while line := self._reader.readline().strip():
            name, _, value = line.partition(b":")
            fields[name.lower()] = value.strip()
        if b"content-length" in fields:
            return self._skip(int(fields[b"content-length"]))
        total = 0
        while length := int(self._reader.readline(), 16):
            total += self._skip(length)
            self._reader.readline()
        self._reader.readline()
        return total

    def _skip(self, length: int) -> int:
        left = length
        while left:
            data = self._reader.read1(min(left, CHUNK))
            if not data:
                raise RuntimeError("envd closed the connection within a body")
            left -= len(data)
        return length
