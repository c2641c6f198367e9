"""Words about people: what they are in a team, what a key may do, what has become of an account."""

from typing import Literal

Role = Literal["owner", "admin", "member"]
Scope = Literal["read", "write", "admin"]
"""`read` looks, `write` changes sandboxes and what belongs to them, `admin` changes the team."""
Status = Literal["pending", "active", "disabled", "deleted"]
"""`pending`: the address is not proven yet."""
