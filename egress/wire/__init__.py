"""Bytes to facts, one file per protocol.

Pure: a parser returns a value, `None` (it needs more bytes) or raises `MalformedError`.
"""
