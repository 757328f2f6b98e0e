"""The records of the engine and of attribution: their fields, their EVE-style JSON, their JSON Schema."""
