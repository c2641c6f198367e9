DROP INDEX sandboxes_interrupted;
