"""Sandboxes of `egress run`: their namespaces, and the commands in them. Runs in: supervisor, egress run."""
