"""The demonstration: real programs try to get out of a sandbox through a real gateway. Run with `make demo`."""
