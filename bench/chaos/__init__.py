"""Injects faults into a real gateway under load, and counts what gets out meanwhile: `make chaos`."""
