"""Mails to users, by SMTP. Without a server configured the log gets them: whoever runs the platform passes links on."""

import asyncio
import smtplib
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

import structlog

from wrenn_server.controlplane import smtp
from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.smtp import Smtp

_RETRIES_AFTER = (5.0, 30.0)

log = structlog.get_logger()


def send(cp: ControlPlane, to: str, subject: str, text: str) -> None:
    """In the background; nobody waits for mail servers. A mail that three attempts did not get off is logged: what is in
    it can be asked for again."""
    if cp.config.smtp is None:
        log.info("mail", action="mail_without_smtp", to=to, subject=subject, text=text)
        return
    message = EmailMessage()
    message["From"] = cp.config.mail_from
    message["To"] = to
    message["Subject"] = subject
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain="wrenn.invalid")
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
    message.set_content(text)
    cp.work.later(_deliver(cp.config.smtp, message), "mail")


async def _deliver(server: Smtp, message: EmailMessage) -> None:
    for pause in (*_RETRIES_AFTER, None):
        try:
            await asyncio.to_thread(smtp.submit, server, message)
        except smtplib.SMTPRecipientsRefused as error:
            log.warning("mail refused", action="mail_refused", to=message["To"], error=str(error))
        except (OSError, smtplib.SMTPException) as error:
            log.warning("mail not sent", action="mail_failed", to=message["To"], error=str(error))
            if pause is not None:
                await asyncio.sleep(pause)
                continue
        return
