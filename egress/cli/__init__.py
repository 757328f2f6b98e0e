"""The command line: one file a noun. It parses, calls, prints; the work is done in the rooms below."""
