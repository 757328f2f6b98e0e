"""Moves journals into the database, prunes old records, and stores the steps that agent frameworks report."""
