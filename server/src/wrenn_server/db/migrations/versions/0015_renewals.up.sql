-- The token that the last renewal gave out: above token_epoch until it is used for the first time, which ends the one before

ALTER TABLE hosts ADD COLUMN renewed_epoch integer NOT NULL DEFAULT 0;
