"""Reading records: the query language, listings, counts, histories, stories, and episodes."""
