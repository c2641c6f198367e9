"""Runs inside a sandbox: how body mass follows flipper length, per species, with nothing but the standard library."""

import csv
import statistics
import sys

by_species: dict[str, list[tuple[float, float]]] = {}
skipped = 0
with open(sys.argv[1], newline="") as file:
    for row in csv.DictReader(file):
        try:
            point = float(row["flipper_length_mm"]), float(row["body_mass_g"])
        except ValueError:
            skipped += 1
            continue
        by_species.setdefault(row["species"], []).append(point)

print(f"{'species':<10} {'n':>4} {'flipper mm':>11} {'mass g':>8} {'g per mm':>9} {'r':>6}")
for species, points in sorted(by_species.items()):
    flippers, masses = zip(*points, strict=True)
    fit = statistics.linear_regression(flippers, masses)
    r = statistics.correlation(flippers, masses)
    print(
        f"{species:<10} {len(points):>4} {statistics.mean(flippers):>11.1f} {statistics.mean(masses):>8.0f}"
        f" {fit.slope:>9.1f} {r:>6.2f}"
    )
print(f"{skipped} rows without a measurement skipped")
