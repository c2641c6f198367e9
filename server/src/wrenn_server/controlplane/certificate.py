"""The certificate of the public port: read from files, and read again when they change.

Connections that exist keep the one with which they began.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from wrenn_server.linux.inotify import Changes

_SETTLE = 0.5  # seconds: who renews a certificate writes several files, one after the other

log = structlog.get_logger()


class BadCertificate(Exception):
    """The files are no certificate with its key; the message says which and why."""


class Certificate:
    """
    :ivar context: for a listener; `reload` changes what it presents from then on
    :raises BadCertificate:
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self.certificate = certificate
        self.key = key
        self.context = _context(certificate, key)

    def reload(self) -> None:
        """:raises BadCertificate: nothing is changed then"""
        _context(self.certificate, self.key)  # a pair that does not match would leave half of it loaded
        _load(self.context, self.certificate, self.key)
        log.info("certificate loaded", action="certificate_loaded", file=str(self.certificate))

    def try_reload(self) -> None:
        """What was loaded before stays when the files are not good now; the log says why."""
        try:
            self.reload()
        except BadCertificate as error:
            log.warning("the old certificate stays", action="certificate_refused", error=str(error))

    @asynccontextmanager
    async def followed(self) -> AsyncGenerator[None, None]:
        """While the context lasts, changes of the files take effect by themselves.

        The directories are watched, not the files: renewal replaces files and symbolic links.

        :raises OSError: inotify is not to be had
        """
        with Changes({self.certificate.parent, self.key.parent}) as changes:
            task = asyncio.create_task(self._follow(changes), name="follow the certificate")
            try:
                yield
            finally:
                task.cancel()
                await asyncio.wait([task])

    async def _follow(self, changes: Changes) -> None:
        while True:
            await changes.wait()
            await asyncio.sleep(_SETTLE)
            changes.clear()
            self.try_reload()


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load(context, certificate, key)
    return context


def _load(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    def no_password() -> str:
        raise BadCertificate(f"CP_TLS_KEY={key}: the key must not be encrypted")

    try:
        for file in (certificate, key):
            file.open("rb").close()  # OpenSSL's own message does not name the file
        context.load_cert_chain(certificate, key, no_password)
    except OSError as error:
        reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else error.strerror or error
        raise BadCertificate(
            f"CP_TLS_CERT={certificate}, CP_TLS_KEY={key}: not a PEM certificate chain and its key: {reason}"
        ) from error
