"""What hosts report of their sandboxes, beside what is on record."""

from collections.abc import Sequence

from wrenn_server.db.pool import Executor
from wrenn_server.wire.agent import SandboxReport


async def differing(
    db: Executor, host_id: str, team_id: str | None, reports: Sequence[SandboxReport]
) -> list[str]:
    """Ids of which what a host reports and what we have on record is not plainly the same: both say that it runs there,
    or rests there, at one generation. Also of those that only one side has, but for what rests in the object store as well:
    its host need not have it.

    :param team_id: whose own the host is: sandboxes of others are not the same, whatever it says
    """
    found = await db.fetchval(
        """SELECT array(
               SELECT r.id FROM unnest($3::text[], $4::bigint[], $5::text[]) AS r (id, generation, state)
                WHERE NOT EXISTS (
                   SELECT FROM sandboxes s
                    WHERE s.id = r.id AND s.host_id = $1 AND s.generation = r.generation AND s.state = r.state
                      AND ($2::text IS NULL OR s.team_id = $2)
                      AND (s.state = 'running' OR s.state = 'paused' AND s.saved_generation IS NOT NULL))
               UNION ALL
               SELECT id FROM sandboxes
                WHERE host_id = $1 AND state NOT IN ('failed', 'killed') AND id <> ALL($3)
                  AND (state = 'paused' AND saved_generation = stored_generation) IS NOT TRUE)""",
        host_id,
        team_id,
        [report.id for report in reports],
        [report.generation for report in reports],
        [report.state.value for report in reports],
    )
    return list(found)
