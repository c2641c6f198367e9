"""Measurements: the platform beside its floor, interleaved in one run, as ratios."""
