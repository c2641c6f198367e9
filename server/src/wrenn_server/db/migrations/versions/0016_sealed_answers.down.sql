-- Those of creates follow from what was made; the others cannot be read any more

DELETE FROM idempotency_keys WHERE resource IS NULL;
UPDATE idempotency_keys SET answer = NULL;
