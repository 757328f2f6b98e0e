"""The policy: rules and budgets as text and as a file, and their evaluation. No clock; only `file` does I/O."""
