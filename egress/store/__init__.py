"""The database: tables, recorder, queries, edits of the policy, cases. SQL is used in this package only."""
