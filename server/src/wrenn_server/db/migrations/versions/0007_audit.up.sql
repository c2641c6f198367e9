-- One chain for each team, and `platform` for what is no team's. Nothing here refers to other tables: what happened stays
-- on record when those whom it happened to are gone

CREATE TABLE audit_logs (
    chain         text NOT NULL,
    number        bigint NOT NULL,
    id            text NOT NULL UNIQUE,
    at            timestamptz NOT NULL,
    actor_type    text NOT NULL CHECK (actor_type IN ('user', 'api_key', 'host', 'anonymous')),
    actor_id      text,
    actor_name    text,
    peer          text NOT NULL,
    method        text NOT NULL,
    operation     text NOT NULL,
    resource_type text,
    resource_id   text,
    status        integer NOT NULL,
    code          text,
    request_id    text NOT NULL,
    digest        bytea NOT NULL,
    PRIMARY KEY (chain, number)
);
CREATE INDEX audit_logs_at ON audit_logs (chain, at);

CREATE TABLE audit_heads (
    chain  text PRIMARY KEY,
    number bigint NOT NULL DEFAULT 0,
    digest bytea NOT NULL DEFAULT ''
);

CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit_logs is append-only';
END $$;
CREATE TRIGGER audit_logs_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_logs
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();

-- What is hashed: a JSON array of texts, which any program can write in the same way (docs/audit.md)

CREATE FUNCTION audit_content(r audit_logs) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT array_to_json(ARRAY[
        r.chain, r.number::text, r.id, to_char(r.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), r.actor_type,
        r.actor_id, r.actor_name, r.peer, r.method, r.operation, r.resource_type, r.resource_id, r.status::text, r.code,
        r.request_id])::text
$$;

-- The chain's head is locked for one statement: rows of one chain get their numbers one after the other. A head that somebody
-- has meddled with is what `verify` finds, and no reason to stop

CREATE FUNCTION audit_append(r audit_logs) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    head audit_heads;
BEGIN
    INSERT INTO audit_heads (chain) VALUES (r.chain) ON CONFLICT DO NOTHING;
    SELECT * INTO head FROM audit_heads WHERE chain = r.chain FOR UPDATE;
    r.number := greatest(head.number, (SELECT max(number) FROM audit_logs WHERE chain = r.chain)) + 1;
    r.at := clock_timestamp();
    r.actor_name := actor_name(r.actor_type, r.actor_id);
    r.digest := sha256(head.digest || convert_to(audit_content(r), 'UTF8'));
    INSERT INTO audit_logs SELECT r.*;
    UPDATE audit_heads SET number = r.number, digest = r.digest WHERE chain = r.chain;
END $$;
