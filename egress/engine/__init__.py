"""Facts and time in, verdicts and records out: no I/O, no clock, no threads."""
