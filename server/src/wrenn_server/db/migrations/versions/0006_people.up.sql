-- Users. `pending`: the address is not proven yet. A deleted user is a row without an address that can be written to

ALTER TABLE users DROP CONSTRAINT users_status_check;
ALTER TABLE users
    ADD CONSTRAINT users_status_check CHECK (status IN ('pending', 'active', 'disabled', 'deleted')),
    ADD COLUMN updated_at timestamptz NOT NULL DEFAULT now();

CREATE TABLE identities (
    provider   text NOT NULL,
    subject    text NOT NULL,
    user_id    text NOT NULL REFERENCES users ON DELETE CASCADE,
    login      text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, subject),
    UNIQUE (user_id, provider)
);

-- Links that work once: in them is a secret, here its SHA-256

CREATE TABLE user_tokens (
    digest     bytea PRIMARY KEY,
    user_id    text NOT NULL REFERENCES users ON DELETE CASCADE,
    purpose    text NOT NULL CHECK (purpose IN ('activate', 'reset')),
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (user_id, purpose)
);

-- Log-ins. `digest` is that of the refresh token or, of a browser's session, of its cookie. `previous_digest` was
-- valid until `rotated_at`: it may come again when the answer with its successor was lost

CREATE TABLE sessions (
    id              text PRIMARY KEY,
    user_id         text NOT NULL REFERENCES users ON DELETE CASCADE,
    team_id         text REFERENCES teams ON DELETE SET NULL,
    kind            text NOT NULL CHECK (kind IN ('token', 'cookie')),
    digest          bytea NOT NULL UNIQUE,
    previous_digest bytea UNIQUE,
    rotated_at      timestamptz NOT NULL DEFAULT now(),
    address         text NOT NULL,
    user_agent      text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    last_used_at    timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz NOT NULL
);
CREATE INDEX sessions_user ON sessions (user_id, created_at DESC);
CREATE INDEX sessions_expired ON sessions (expires_at);

-- Teams have one owner each

ALTER TABLE teams ADD COLUMN slug text;
UPDATE teams SET slug = substr(md5(id), 1, 6) || '-' || substr(md5(id), 7, 6);
ALTER TABLE teams
    ALTER COLUMN slug SET NOT NULL,
    ADD CONSTRAINT teams_slug UNIQUE (slug),
    ADD COLUMN deleted_at timestamptz;
CREATE UNIQUE INDEX members_owner ON members (team_id) WHERE role = 'owner';
CREATE INDEX members_team ON members (team_id, joined_at);

CREATE TABLE invitations (
    id         text PRIMARY KEY,
    team_id    text NOT NULL REFERENCES teams ON DELETE CASCADE,
    email      text NOT NULL CHECK (email = lower(email)),
    role       text NOT NULL CHECK (role IN ('admin', 'member')),
    digest     bytea NOT NULL UNIQUE,
    invited_by text REFERENCES users ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    UNIQUE (team_id, email)
);

-- API keys, and keys that reach one sandbox alone

ALTER TABLE api_keys
    ADD COLUMN scopes     text[] NOT NULL DEFAULT '{read,write}',
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN sandbox_id text REFERENCES sandboxes ON DELETE CASCADE,
    ADD CONSTRAINT api_keys_scopes CHECK (scopes <@ '{read,write,admin}'::text[] AND cardinality(scopes) > 0);
CREATE INDEX api_keys_sandbox ON api_keys (sandbox_id) WHERE sandbox_id IS NOT NULL;

-- How often something may be tried: a bucket that fills again with time

CREATE UNLOGGED TABLE attempts (
    what       text PRIMARY KEY,
    left_over  double precision NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
