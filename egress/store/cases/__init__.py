"""Cases: database files with the records of replayed captures, apart from the live database."""
