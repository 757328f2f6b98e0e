"""The database: opening it, its tables and column types, checked rows, partitions, commits of other processes."""
