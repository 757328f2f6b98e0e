"""The supervisor's work with the database: edits, the gateway's own rules, holds, presence."""
