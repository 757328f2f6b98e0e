"""The framings of the protocols, one file for each protocol in `egress.dissection.protocols`."""
