"""The agent's port as the control plane sees it: tokens, calls and tunnels over real sockets."""

import contextlib
import json
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hostagent.world import World

from wrenn_server.edge.listener import Listener
from wrenn_server.hostagent import app, rpc, tunnel
from wrenn_server.hostagent.credentials import Credentials, Verifier
from wrenn_server.hostagent.metrics import Metrics
from wrenn_server.hostagent.sandbox.registry import Registry
from wrenn_server.wire import http1, stream
from wrenn_server.wire.agent import AgentHealth

HOST = "host_" + "a" * 20


@dataclass
class Signer:
    """The control plane's key."""

    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    def credentials(self) -> Credentials:
        pem = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        return Credentials(
            host_id=HOST, token="t", key_pem="", cert_pem="", ca_cert_pem="", control_plane_key_pem=pem
        )

    def token(self, **claims: Any) -> str:
        fields = {"aud": HOST, "exp": int(time.time()) + 60} | claims
        return jwt.encode({k: v for k, v in fields.items() if v is not None}, self.key, algorithm="EdDSA")


@dataclass
class Caller:
    address: str
    headers: list[tuple[str, str]]
    registry: Registry
    signer: Signer

    async def __call__(self, method: str, path: str, body: object = None, **kwargs: Any) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        host, _, port = self.address.rpartition(":")
        connected = await stream.connect_tcp(host, int(port))
        async with http1.Connection(connected, host=self.address) as connection:
            headers = kwargs.get("headers", self.headers)
            response = await connection.request(method, path, headers=headers, body=data)
            answer = await response.read(limit=1 << 20)
        with contextlib.suppress(json.JSONDecodeError):
            return response.status, json.loads(answer) if answer else None
        return response.status, answer.decode()


@contextlib.asynccontextmanager
async def calling(world: World, run: Path) -> AsyncGenerator[Caller]:
    """A whole agent on loopback, but for its VMs."""
    signer = Signer()
    verifier = Verifier(signer.credentials())

    async def health() -> AgentHealth:
        return AgentHealth(version="1", vmm="fake", vmm_version="1", accelerated=False, sandboxes=0)

    async with world.agent() as registry:
        metrics = Metrics(registry.reports)
        application = rpc.build(registry, verifier, health, metrics.registry)
        async with app.served(application, run) as api:
            route = tunnel.routes(registry, world.slots, verifier, api)
            async with Listener("127.0.0.1:0", route, trusted=True, observe=metrics.observe) as listener:
                headers = [("Authorization", f"Bearer {signer.token()}")]
                yield Caller(listener.address, headers, registry, signer)
