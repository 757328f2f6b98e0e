"""The gateway's processes and their kernel interfaces: supervisor, workers, attribution, sandboxes."""
