"""Tests of the dissection."""
