-- What rests in the middle of a move or a rollback is looked for every few seconds, and is hardly ever there

CREATE INDEX sandboxes_interrupted ON sandboxes (updated_at) WHERE state = 'paused' AND reason IN ('drain', 'rollback');
