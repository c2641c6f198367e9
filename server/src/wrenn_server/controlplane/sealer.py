"""Secrets that we must be able to read again, sealed for the database: AES-256-GCM, bound to where they belong."""

import base64
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE = 12
_FORM = b"\x01"


def new() -> tuple[str, str]:
    """A key as table `platform_keys` has it, which has no public half."""
    return base64.b64encode(AESGCM.generate_key(bit_length=256)).decode(), ""


class Sealer:
    def __init__(self, key: str) -> None:
        self._aead = AESGCM(base64.b64decode(key))

    def seal(self, secret: bytes, place: str) -> bytes:
        """:param place: where it is kept, e.g. the id of its row: it opens nowhere else"""
        nonce = secrets.token_bytes(_NONCE)
        return _FORM + nonce + self._aead.encrypt(nonce, secret, place.encode())

    def open(self, sealed: bytes, place: str) -> bytes:
        """:raises ValueError: it was not sealed with this key for this place"""
        nonce, rest = sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :]
        try:
            if not sealed.startswith(_FORM):
                raise ValueError("sealed in another form")
            return self._aead.decrypt(nonce, rest, place.encode())
        except InvalidTag as error:
            raise ValueError(
                f"what is sealed for {place} does not open: another key, or another place"
            ) from error
