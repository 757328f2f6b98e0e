"""Output that commands share: tables, stories, plots, HTML, CSV."""
