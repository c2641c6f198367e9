-- What sandboxes used in a day (UTC), added up from samples: processor time in milliseconds, memory and disk in
-- MiB-milliseconds. After a while a team's sandboxes become one row without a name. Outlives sandbox and team

CREATE TABLE usage_days (
    sandbox_id   text NOT NULL,
    day          date NOT NULL,
    team_id      text NOT NULL,
    cpu_ms       bigint NOT NULL,
    memory_mb_ms bigint NOT NULL,
    disk_mb_ms   bigint NOT NULL,
    egress_bytes bigint NOT NULL,
    PRIMARY KEY (team_id, day, sandbox_id)
) WITH (fillfactor = 70);
CREATE INDEX usage_days_sandbox ON usage_days (sandbox_id, day);
CREATE INDEX usage_days_old ON usage_days (day) WHERE sandbox_id <> '';

-- Which of an agent process's samples are counted, by their numbers

CREATE TABLE sample_epochs (
    host_id text NOT NULL REFERENCES hosts (id) ON DELETE CASCADE,
    epoch   double precision NOT NULL,
    taken   int8multirange NOT NULL DEFAULT '{}',
    seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (host_id, epoch)
) WITH (fillfactor = 70);

CREATE INDEX draws_old ON draws (ended_at) WHERE ended_at IS NOT NULL;
