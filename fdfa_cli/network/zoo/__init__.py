"""Architectures, one file each, registered by name."""
