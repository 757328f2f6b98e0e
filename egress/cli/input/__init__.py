"""Input of the commands: arguments and options they share, queries, the client of the API."""
