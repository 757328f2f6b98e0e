"""Faults injected into a real gateway under load, and what got out meanwhile: `make chaos`."""
