"""The protocols that are identified and followed, one class in one file each. A new file is the whole change."""
