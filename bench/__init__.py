"""Benchmarks. `make bench` (root) measures packets, records, policies and datapaths; others are run by themselves."""
