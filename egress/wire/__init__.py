"""Bytes to facts, one file a protocol.

Pure: a parser returns a value, `None` (it needs more bytes) or raises `MalformedError`.
"""
