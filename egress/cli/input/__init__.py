"""Input that commands share: arguments, options, queries, and the client of the API."""
