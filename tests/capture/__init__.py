"""Tests of `egress.capture`."""
