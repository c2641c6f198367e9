"""Renews the certificate of the agent's port and the host's token, together, before one of them ends.

The control plane takes the token of before until it has seen the new one. So whatever is lost on the way, the request, its
answer or this process, one of the two is in the file and good, and asking again is all there is to do.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import jwt
import msgspec
import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from wrenn_server.hostagent.control_plane import ControlPlane
from wrenn_server.hostagent.credentials import Credentials, save
from wrenn_server.hostagent.registration import private_pem, signing_request
from wrenn_server.hostagent.sandbox.clock import Clock
from wrenn_server.model.errors import Unauthorized, WrennError
from wrenn_server.wire.agent import Renew, Renewed

LEFT = 1 / 3
"""Part of a life that is left when it is time to renew: a month of tries for one of 90 days."""
TIMEOUT = 10.0
PAUSE = 60.0
"""Seconds between two tries, at least. Also after one that succeeded: by a clock that is months ahead, all is always due."""

log = structlog.get_logger()


class Renewal:
    """`keep` is to be called again and again, by one task.

    :param credentials: changed in place
    :param file: AGENT_TOKEN_FILE; has the new credentials before anything uses them
    :param present: has the agent's port present a new certificate from now on
    """

    def __init__(
        self,
        control_plane: ControlPlane,
        credentials: Credentials,
        *,
        file: Path,
        address: str | None,
        installation: str,
        clock: Clock,
        present: Callable[[Credentials], None],
    ) -> None:
        self._control_plane = control_plane
        self._credentials = credentials
        self._file = file
        self._address = address
        self._installation = installation
        self._clock = clock
        self._present = present
        self._due = due(credentials)
        self._not_before = 0.0
        """By the event loop's clock: the wall clock may be set back between two tries."""

    async def keep(self) -> None:
        """Renews when it is time. What fails leaves everything as it is, is logged, and is tried again."""
        loop = asyncio.get_running_loop()
        if self._clock.now() < self._due or loop.time() < self._not_before:
            return
        self._not_before = loop.time() + PAUSE
        try:
            fresh = await self._ask()
            await asyncio.to_thread(save, self._file, fresh)
            self._present(fresh)
        except WrennError as error:
            again = "; to join again: POST /v1/hosts/{id}/token, then wrenn-agent --register TOKEN"
            log.warning(
                "renewal refused",
                action="renewal_refused",
                code=error.code,
                detail=error.message,
                hint="the old certificate and token stay"
                + (again if isinstance(error, Unauthorized) else ""),
            )
            return
        except (OSError, TimeoutError, ValueError, msgspec.MsgspecError) as error:
            log.warning("renewal failed", action="renewal_failed", error=str(error) or "no answer in time")
            return
        self._credentials.token = fresh.token
        self._credentials.key_pem = fresh.key_pem
        self._credentials.cert_pem = fresh.cert_pem
        self._due = due(fresh)
        log.info("certificate and token renewed", action="renewed", next=self._due)

    async def _ask(self) -> Credentials:
        """:raises WrennError: :raises OSError: :raises TimeoutError: :raises ValueError: :raises MsgspecError: the
        answer is of no use"""
        key = ec.generate_private_key(ec.SECP256R1())
        request = Renew(csr_pem=signing_request(key, self._address), installation=self._installation)
        path = f"/v1/hosts/{self._credentials.host_id}/renew"
        data = await self._control_plane.post(path, request, timeout=TIMEOUT, token=self._credentials.token)
        renewed = msgspec.json.decode(data, type=Renewed)
        fresh = msgspec.structs.replace(
            self._credentials, token=renewed.token, cert_pem=renewed.cert_pem, key_pem=private_pem(key)
        )
        _check(fresh, key.public_key())
        return fresh


def due(credentials: Credentials) -> float:
    """When `LEFT` is left of the certificate or the token, whichever is earlier. Unix seconds; 0 when one of them cannot
    be read."""
    try:
        certificate = x509.load_pem_x509_certificate(credentials.cert_pem.encode())
        claims = _claims(credentials.token)
        lives = (
            (certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()),
            (float(claims["iat"]), float(claims["exp"])),
        )
    except (ValueError, KeyError, TypeError):
        return 0.0
    return min(end - LEFT * (end - begin) for begin, end in lives)


def _check(fresh: Credentials, key: ec.EllipticCurvePublicKey) -> None:
    """What replaces good credentials must be good.

    :raises ValueError:"""
    try:
        certificate = x509.load_pem_x509_certificate(fresh.cert_pem.encode())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(fresh.ca_cert_pem.encode()))
        certified = certificate.public_key()
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
        raise ValueError("the control plane sent a certificate that its authority did not sign") from error
    if certified != key:
        raise ValueError("the control plane sent a certificate for another key")
    if _claims(fresh.token).get("sub") != fresh.host_id:
        raise ValueError("the control plane sent a token for another host")


def _claims(token: str) -> dict[str, float | str]:
    """Not verified: only the control plane that made a token has to believe it.

    :raises ValueError:"""
    try:
        return jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError as error:
        raise ValueError("the host's token is none") from error
