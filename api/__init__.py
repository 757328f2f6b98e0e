"""The REST API: `create_app()` makes it, `egress serve` runs it."""
