"""Sandboxes of `egress run`: the supervisor makes their namespaces, `egress run` starts the commands in them."""
