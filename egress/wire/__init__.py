"""Parsers, one file per protocol.

They are pure: a parser returns a value or `None` (it needs more bytes), or raises `MalformedError`.
"""
