"""Output of the commands: tables, stories, pictures, CSV."""
