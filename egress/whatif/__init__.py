"""What a policy would say: of a destination nobody has tried yet, of flows that were, and which rules they need."""
