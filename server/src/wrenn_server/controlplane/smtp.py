"""A mail server to hand mails to (RFC 6409)."""

import smtplib
import ssl
from dataclasses import dataclass, field
from email.message import EmailMessage
from urllib.parse import unquote, urlsplit

TIMEOUT_SEC = 30.0


@dataclass(frozen=True, slots=True)
class Smtp:
    """`smtp://` uses STARTTLS when the server offers it, and always before a password is sent; `smtps://` begins with
    TLS."""

    host: str
    port: int
    tls: bool
    user: str | None
    password: str | None = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "Smtp":
        """:raises ValueError:"""
        url = urlsplit(text)
        if url.scheme not in {"smtp", "smtps"} or not url.hostname:
            raise ValueError("expected smtp://USER:PASSWORD@HOST:PORT or smtps://…")
        tls = url.scheme == "smtps"
        return cls(
            url.hostname,
            url.port or (465 if tls else 587),
            tls,
            unquote(url.username) if url.username else None,
            unquote(url.password) if url.password else None,
        )


def submit(smtp: Smtp, message: EmailMessage) -> None:
    """Blocks. :raises OSError: :raises SMTPException:"""
    context = ssl.create_default_context()
    if smtp.tls:
        server: smtplib.SMTP = smtplib.SMTP_SSL(smtp.host, smtp.port, timeout=TIMEOUT_SEC, context=context)
    else:
        server = smtplib.SMTP(smtp.host, smtp.port, timeout=TIMEOUT_SEC)
    with server:
        server.ehlo()
        if not smtp.tls and (server.has_extn("starttls") or smtp.user is not None):
            server.starttls(context=context)
            server.ehlo()
        if smtp.user is not None:
            server.login(smtp.user, smtp.password or "")
        server.send_message(message)
