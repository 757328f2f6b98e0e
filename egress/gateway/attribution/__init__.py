"""The process behind a flow: told of by a worker, looked up by a process of its own (docs/adr/0016)."""
