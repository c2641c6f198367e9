"""Passwords: Argon2id, a few at a time."""

import asyncio

import argon2

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.model.errors import InvalidRequest

SHORTEST = 8

_hasher = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
"""OWASP's minimum for Argon2id: 19 MiB, two rounds."""


async def hashed(password: str) -> str:
    """:raises InvalidRequest: too short"""
    if len(password) < SHORTEST:
        raise InvalidRequest(f"a password has at least {SHORTEST} characters", code="password_too_short")
    return await asyncio.to_thread(_hasher.hash, _bytes(password))


async def right(cp: ControlPlane, password_hash: str | None, password: str) -> bool:
    """A hash is computed without one to compare with, too: the time of an answer must not tell who has an account."""
    async with cp.hashing:
        return await asyncio.to_thread(_verify, password_hash, password)


def _verify(password_hash: str | None, password: str) -> bool:
    if password_hash is None:
        _hasher.hash(_bytes(password))
        return False
    try:
        return _hasher.verify(password_hash, _bytes(password))
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False


def _bytes(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")
