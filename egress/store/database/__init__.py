"""The database itself: opening it, its tables and column types, days, commits of other processes."""
