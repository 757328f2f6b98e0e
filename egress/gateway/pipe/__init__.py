"""What the gateway's processes say to each other: messages, lines, notes of new flows."""
