"""The database: tables, recorder, readers. Only here is SQL spoken."""
