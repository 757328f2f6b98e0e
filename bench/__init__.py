"""Benchmarks: `make bench` (root). Each prints ratios measured in one run, with min, median and max."""
