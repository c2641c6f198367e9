"""Sandboxes as `/v1/capsules`, for programs written for the published `wrenn` 0.3 SDK. It translates; the rules are in
`services/`. What programs and files are asked for is the native API's own, at these paths too.
"""
