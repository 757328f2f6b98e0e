"""The command line: one file per command, which parses arguments, calls the packages below, and prints."""
