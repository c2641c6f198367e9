-- What puts off the end of a sandbox's time to live: words of `model.sandbox.Activity`. What is there already keeps the time
-- that it was promised

ALTER TABLE sandboxes
    ADD COLUMN activity text[] NOT NULL DEFAULT '{}';
