"""The one public port of a program: frames every request and passes it on. Imports `model` and `wire` only."""
