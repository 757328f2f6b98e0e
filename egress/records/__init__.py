"""Records: the shapes that leave the engine, and their EVE-style JSON, written and read back."""
