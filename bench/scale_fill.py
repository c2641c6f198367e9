"""A database as large as an installation's: set-based, with the triggers off and their sums written as they would be.

Of the sandboxes that are alive three quarters run and the others are paused; a quarter as many again have ended. One team
has a tenth of them, `TEAMS` others share the rest; every team has a pool. Hosts and teams are chosen by hash.
"""

from wrenn_server.db.pool import Connection, Database

TEAMS = 200
STORY_DAYS = 30
IMAGE = "minimal"
TEMPLATE_ID = "tpl_" + "0" * 20

_HOSTS = """
INSERT INTO hosts (id, status, address, arch, cpus, memory_mb, disk_mb, vmm, vmm_version, accelerated, version,
                   templates, token_epoch, last_heartbeat_at)
SELECT 'host_' || lpad(n::text, 20, '0'), 'online', $2, 'x86_64', 64, 262144, 1000000, 'simulated', '1', true,
       'simulated', ARRAY[$3], 1, now() + interval '1 day'  -- not silent before the load begins
  FROM generate_series(0, $1 - 1) n"""
_TEAMS = """
INSERT INTO teams (id, name, slug)
SELECT 'team_' || lpad(n::text, 20, '0'), 'Team ' || n, 'scale-' || n FROM generate_series(1, $1) n"""
_POOLS = """
INSERT INTO pools (team_id, vcpus, memory_mb, disk_mb, vcpus_drawn, memory_mb_drawn, disk_mb_drawn)
SELECT id, 1000000, 2000000000, 2000000000, 0, 0, 0 FROM teams ON CONFLICT DO NOTHING"""
_SANDBOXES = """
INSERT INTO sandboxes (id, team_id, template_id, template, host_id, state, vcpus, memory_mb, disk_mb, timeout_sec,
                       metadata, access_token, envd_version, reason, image, created_at, started_at, last_active_at,
                       updated_at, expires_at, saved_memory, saved_generation)
SELECT 'sb' || substr(md5(n::text), 1, 20),
       CASE team % 10 WHEN 0 THEN $3 ELSE 'team_' || lpad((1 + team % $4)::text, 20, '0') END,
       $5, $6, 'host_' || lpad((host % $7)::text, 20, '0'), state, 1 + n % 2, 512 * (1 + n % 2), 5120, 3600,
       jsonb_build_object('project', 'p' || n % 50, 'user', 'u' || n % 1000), md5('token' || n), '0.6.13',
       CASE state WHEN 'killed' THEN 'timeout' END, $6, born, born, born, born,
       CASE state WHEN 'running' THEN now() + interval '1 hour' END,
       CASE state WHEN 'paused' THEN true END, CASE state WHEN 'paused' THEN 1 END
  FROM (SELECT n, hashint4(n)::bigint & 2147483647 AS host, hashint4(-n)::bigint & 2147483647 AS team,
               CASE n % 5 WHEN 0 THEN 'killed' WHEN 1 THEN 'paused' ELSE 'running' END AS state,
               now() - make_interval(secs => $8 * 86400.0 * n / $2) AS born
          FROM generate_series($1::int, $2::int) n) story"""
_DRAWS = """
INSERT INTO draws (sandbox_id, team_id, draw, vcpus, memory_mb, disk_mb, began_at, ended_at)
SELECT id, team_id, CASE state WHEN 'paused' THEN 'disk' ELSE 'all' END, vcpus, memory_mb, disk_mb, created_at,
       CASE state WHEN 'killed' THEN least(created_at + interval '1 hour', now()) END
  FROM sandboxes s WHERE NOT EXISTS (SELECT FROM draws d WHERE d.sandbox_id = s.id)"""
_RESERVED = """
UPDATE hosts h SET cpus_reserved = t.cpus, memory_mb_reserved = t.memory, disk_mb_reserved = t.disk, sandboxes = t.count
  FROM (SELECT s.host_id, sum(t.cpus) AS cpus, sum(t.memory) AS memory, sum(t.disk) AS disk, sum(t.count) AS count
          FROM sandboxes s, sandbox_takes(s.state, s.vcpus, s.memory_mb, s.disk_mb) t GROUP BY s.host_id) t
 WHERE h.id = t.host_id"""
_DRAWN = """
UPDATE pools p SET vcpus_drawn = d.vcpus, memory_mb_drawn = d.memory, disk_mb_drawn = d.disk
  FROM (SELECT team_id, sum(disk_mb) AS disk, coalesce(sum(vcpus) FILTER (WHERE draw = 'all'), 0) AS vcpus,
               coalesce(sum(memory_mb) FILTER (WHERE draw = 'all'), 0) AS memory
          FROM draws WHERE ended_at IS NULL GROUP BY team_id) d
 WHERE p.team_id = d.team_id"""


def rows_for(alive: int) -> int:
    """Sandboxes with those that have ended."""
    return alive * 5 // 4


async def places(db: Database, *, hosts: int, address: str) -> None:
    """Hosts, all of them at one HOST:PORT, teams and their pools, and the template."""
    async with db.transaction() as tx:
        await _without_triggers(tx)
        await tx.execute(_HOSTS, hosts, address, IMAGE)
        await tx.execute(_TEAMS, TEAMS)
        await tx.execute(_POOLS)
        await tx.execute(
            "INSERT INTO templates (id, name) VALUES ($1, $2) ON CONFLICT DO NOTHING", TEMPLATE_ID, IMAGE
        )


async def sandboxes(db: Database, *, team_id: str, hosts: int, before: int, alive: int) -> None:
    """From so many that are alive to so many.

    :param team_id: who has a tenth of them
    """
    async with db.transaction() as tx:
        await _without_triggers(tx)
        await tx.execute(
            _SANDBOXES, rows_for(before) + 1, rows_for(alive), team_id, TEAMS, TEMPLATE_ID, IMAGE, hosts,
            float(STORY_DAYS),
        )  # fmt: skip
        for statement in (_DRAWS, _RESERVED, _DRAWN):
            await tx.execute(statement)


async def _without_triggers(tx: Connection) -> None:
    await tx.execute("SET LOCAL session_replication_role = replica")
