"""The attribution process: it looks up the process behind each flow that a worker reports (docs/adr/0016)."""
