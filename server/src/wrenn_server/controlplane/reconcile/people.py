"""What of people runs out, and what a deleted team leaves behind."""

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import attempts, teams
from wrenn_server.db import attempts as db_attempts
from wrenn_server.db import sessions, user_tokens
from wrenn_server.db import teams as db_teams

INTERVAL = 60.0


async def converge(cp: ControlPlane) -> None:
    await sessions.expire(cp.db)
    await user_tokens.expire(cp.db)
    await db_teams.expire_invitations(cp.db)
    await db_attempts.expire(cp.db, attempts.LONGEST_SEC)
    await teams.converge(cp)
