"""Tests of `egress.whatif`: check, simulate and learn."""
