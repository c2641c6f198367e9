-- What guest memory of a host depends on, the object store that it uses, and whether it is to become empty

ALTER TABLE hosts
    ADD COLUMN machine  text NOT NULL DEFAULT '',
    ADD COLUMN store    text NOT NULL DEFAULT '',
    ADD COLUMN draining boolean NOT NULL DEFAULT false;

-- Sandboxes. `saved_generation`: what a paused one rests on. `stored_*`: what of it is in which object store, and the
-- machine that wrote it; while it runs, that is older than the sandbox

ALTER TABLE sandboxes
    ADD COLUMN saved_generation  integer,
    ADD COLUMN stored_generation integer,
    ADD COLUMN stored_machine    text,
    ADD COLUMN stored_in         text;

ALTER TABLE snapshots
    ADD COLUMN stored_machine text,
    ADD COLUMN stored_in      text;
