"""The version, which packages and run folders state."""

__version__ = "0.2.0"
