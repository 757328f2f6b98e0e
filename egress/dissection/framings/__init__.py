"""The framings (`egress.dissection.framing`), one file for each protocol in `egress.dissection.protocols`."""
