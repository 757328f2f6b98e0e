"""The demonstration: real programs try to get out of a sandbox through a real gateway. Run it with `make demo`."""
