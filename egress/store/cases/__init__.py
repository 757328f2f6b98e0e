"""Cases: captures judged into a database file of their own."""
