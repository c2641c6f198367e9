"""Identifiers: `sb` + 20 of `[a-z0-9]` for sandboxes, a typed prefix + 20 of `[a-z0-9]` for everything else.

A sandbox id has no dash or underscore because it is one DNS label beside `{port}-`. Parsing is total: whatever is
not an id of the wanted kind gives None, and callers answer 404.
"""

import re
import secrets
from typing import NewType

SandboxId = NewType("SandboxId", str)
TeamId = NewType("TeamId", str)
UserId = NewType("UserId", str)
KeyId = NewType("KeyId", str)
HostId = NewType("HostId", str)
TemplateId = NewType("TemplateId", str)
SnapshotId = NewType("SnapshotId", str)
ChannelId = NewType("ChannelId", str)

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
LENGTH = 20

_SANDBOX = re.compile(r"sb[a-z0-9]{20}")
_PREFIXED = re.compile(r"([a-z]+_)[a-z0-9]{20}")


def _random() -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))


def new_sandbox_id() -> SandboxId:
    return SandboxId("sb" + _random())


def new_team_id() -> TeamId:
    return TeamId("team_" + _random())


def new_user_id() -> UserId:
    return UserId("usr_" + _random())


def new_key_id() -> KeyId:
    return KeyId("key_" + _random())


def new_host_id() -> HostId:
    return HostId("host_" + _random())


def new_template_id() -> TemplateId:
    return TemplateId("tpl_" + _random())


def new_snapshot_id() -> SnapshotId:
    return SnapshotId("snap_" + _random())


def new_session_id() -> str:
    return "ses_" + _random()


def new_invitation_id() -> str:
    return "inv_" + _random()


def new_channel_id() -> ChannelId:
    return ChannelId("chn_" + _random())


def new_audit_id() -> str:
    return "log_" + _random()


def new_cap_id() -> str:
    return "cap_" + _random()


def new_invoice_id() -> str:
    return "ivc_" + _random()


def new_request_id() -> str:
    return "req_" + _random()


def parse_sandbox_id(text: str) -> SandboxId | None:
    return SandboxId(text) if _SANDBOX.fullmatch(text) else None


def _parse(prefix: str, text: str) -> str | None:
    match = _PREFIXED.fullmatch(text)
    return text if match and match[1] == prefix else None


def parse_host_id(text: str) -> HostId | None:
    return HostId(text) if _parse("host_", text) else None


def parse_template_id(text: str) -> TemplateId | None:
    return TemplateId(text) if _parse("tpl_", text) else None


def parse_snapshot_id(text: str) -> SnapshotId | None:
    return SnapshotId(text) if _parse("snap_", text) else None


def parse_channel_id(text: str) -> ChannelId | None:
    return ChannelId(text) if _parse("chn_", text) else None
