"""The database: tables, recorder, readers, edits. No other room uses SQL."""
