"""Tests of what a policy would say."""
