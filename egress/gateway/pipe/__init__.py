"""Communication between the gateway's processes: messages, lines, notes of new flows."""
