"""The engine: judges packets at given times and returns verdicts and records. No I/O, no clock, no threads."""
