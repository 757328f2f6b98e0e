"""The journal: records as JSON lines, on file before the kernel is answered. Runs in: worker, attribution."""
