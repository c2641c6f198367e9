"""E2B's control API, for programs written for its SDKs. It translates; the rules are in `services/`.

Paths, fields and statuses are those of the published clients (PyPI `e2b`, npm `e2b`).
"""
