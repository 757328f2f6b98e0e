"""Output of the commands: tables, stories, plots, CSV."""
