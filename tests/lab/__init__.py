"""Tests on the real kernel, as root, inside network namespaces of their own."""
