"""What the agent got at its registration or last renewal, in one file; and the check of the control plane's tokens with it.

No refusal from the network ever changes or removes the file. Only a registration or a renewal replaces it, atomically.
"""

import hashlib
import time
from pathlib import Path

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from wrenn_server.linux.files import write_durably
from wrenn_server.model.errors import Unauthorized

LEEWAY = 10.0
"""Seconds that the clocks of the two hosts may differ."""
_CACHED = 1024


class CredentialsError(Exception):
    """The file is missing or unusable; the message says what to do."""


class Credentials(msgspec.Struct, kw_only=True):
    """Content of AGENT_TOKEN_FILE (JSON, 0600). A renewal changes them in place: who holds them has the newest."""

    host_id: str
    token: str
    """Host JWT, for `X-Host-Token`."""
    key_pem: str
    """Private key, made here and never sent."""
    cert_pem: str
    """Certificate of the agent's port, for that key."""
    ca_cert_pem: str
    control_plane_key_pem: str
    """Ed25519 public key that signs the control plane's calls."""
    registration: str = ""
    """SHA-256 of the registration token that it came from: an agent that is started again with the same command
    line must not try to use a token twice."""

    def came_from(self, registration_token: str) -> bool:
        return self.registration == fingerprint(registration_token)


def fingerprint(registration_token: str) -> str:
    return hashlib.sha256(registration_token.encode()).hexdigest()


def load(path: Path) -> Credentials | None:
    """None when the host has never been registered.

    :raises CredentialsError: the file is there and cannot be used"""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Credentials)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise CredentialsError(
            f"{path} cannot be read as host credentials ({error}). Restore it from a copy, or move it away and register "
            "this host again: POST /v1/hosts/{id}/token, then wrenn-agent --register TOKEN"
        ) from error


def save(path: Path, credentials: Credentials) -> None:
    """:raises OSError:"""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_durably(path, msgspec.json.format(msgspec.json.encode(credentials)))


class Verifier:
    """Checks `Authorization: Bearer <JWT>` of the control plane's calls: its signature, that it is for this host, and
    that it has not expired."""

    def __init__(self, credentials: Credentials) -> None:
        key = load_pem_public_key(credentials.control_plane_key_pem.encode())
        if not isinstance(key, Ed25519PublicKey):
            raise CredentialsError("the control plane's key is not an Ed25519 key")
        self._key = key
        self._host_id = credentials.host_id
        self._known: dict[str, float] = {}

    def check(self, authorization: str | None) -> None:
        """:raises Unauthorized:"""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthorized("a call needs `Authorization: Bearer` with a token of the control plane")
        now = time.time()
        if self._known.get(token, 0.0) > now:
            return
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=["EdDSA"],
                audience=self._host_id,
                leeway=LEEWAY,
                options={"require": ["exp", "aud"]},
            )
        except jwt.InvalidTokenError as error:
            raise Unauthorized(f"the control plane's token was refused: {error}") from error
        # The same token comes with every tunnel of its minute; a signature costs more than opening one.
        if len(self._known) >= _CACHED:
            self._known.clear()
        self._known[token] = float(claims["exp"])
