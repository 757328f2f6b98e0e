"""Bytes of a flow to events: which protocol it is, what its messages state, and what they carry inside."""
