-- Channels: where a team's events are told; a webhook is one of them. `config` is sealed with a key of the platform.
-- `events`: types, or `*`

CREATE TABLE channels (
    id         text PRIMARY KEY,
    team_id    text NOT NULL REFERENCES teams ON DELETE CASCADE,
    name       text NOT NULL,
    provider   text NOT NULL
        CHECK (provider IN ('webhook', 'slack', 'discord', 'teams', 'googlechat', 'telegram', 'matrix')),
    events     text[] NOT NULL,
    config     bytea NOT NULL,
    enabled    boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (team_id, name)
);

-- One event for one channel. `event_id` is null for a test. `next_at` is the lease, too: whoever tries has put it so far
-- ahead that they will have ended by then. `attempts` is the fencing number of who tries; `restarted`: how many there were
-- when somebody last asked for it anew

CREATE TABLE deliveries (
    sequence   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id         text NOT NULL UNIQUE DEFAULT 'dlv_' || substr(replace(gen_random_uuid()::text, '-', ''), 1, 20),
    channel_id text NOT NULL REFERENCES channels ON DELETE CASCADE,
    event_id   text,
    type       text NOT NULL,
    state      text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed')),
    attempts   integer NOT NULL DEFAULT 0,
    restarted  integer NOT NULL DEFAULT 0,
    next_at    timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    settled_at timestamptz
);
CREATE INDEX deliveries_due ON deliveries (next_at) WHERE state = 'pending';
CREATE INDEX deliveries_channel ON deliveries (channel_id, sequence);
CREATE INDEX deliveries_created ON deliveries (created_at);

CREATE TABLE delivery_attempts (
    delivery_id text NOT NULL REFERENCES deliveries (id) ON DELETE CASCADE,
    number      integer NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    duration_ms integer NOT NULL,
    status      integer,
    error       text,
    answer      text NOT NULL,
    PRIMARY KEY (delivery_id, number)
);

-- As before; and what gets its position gets its deliveries with it, so that each channel has each event once

CREATE OR REPLACE FUNCTION events_publish(at_most integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    head bigint;
    teams text[];
    count integer;
    told integer;
BEGIN
    SELECT position INTO head FROM event_head FOR UPDATE;
    WITH new AS (
        SELECT sequence, row_number() OVER (ORDER BY sequence) AS number
          FROM (SELECT sequence FROM events WHERE position IS NULL ORDER BY sequence LIMIT at_most) oldest),
    numbered AS (
        UPDATE events e SET position = head + new.number FROM new WHERE e.sequence = new.sequence
        RETURNING e.id, e.team_id, e.type, e.position),
    delivered AS (
        INSERT INTO deliveries (channel_id, event_id, type)
        SELECT c.id, n.id, n.type FROM numbered n JOIN channels c ON c.team_id = n.team_id
         WHERE c.enabled AND c.events && ARRAY[n.type, '*'] ORDER BY n.position
        RETURNING 1)
    SELECT (SELECT array_agg(DISTINCT coalesce(team_id, '')) FROM numbered), (SELECT count(*) FROM numbered),
           (SELECT count(*) FROM delivered) INTO teams, count, told;
    IF count > 0 THEN
        UPDATE event_head SET position = head + count;
        PERFORM pg_notify('wrenn', 'events ' || team) FROM unnest(teams) AS team;
    END IF;
    IF told > 0 THEN
        PERFORM pg_notify('wrenn', 'deliveries');
    END IF;
    RETURN count;
END $$;
