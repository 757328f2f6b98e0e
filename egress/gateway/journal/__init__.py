"""The journal of a worker or of attribution: records as JSON lines, on file before the kernel is answered."""
