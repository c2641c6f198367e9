"""The command line `wrenn`."""
