"""Dissection turns the bytes of a flow into events: its protocol, the facts in its messages and in carried bytes."""
