"""The only folder with SQL: one file a resource, one function a statement."""
