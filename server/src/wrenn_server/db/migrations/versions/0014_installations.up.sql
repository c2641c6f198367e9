-- Who speaks for a host: a copy of its credentials elsewhere must not

ALTER TABLE hosts ADD COLUMN installation text NOT NULL DEFAULT '';
