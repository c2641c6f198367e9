-- Answers were in clear, with secrets. All are of creates: they follow from what was made

UPDATE idempotency_keys SET answer = NULL;
