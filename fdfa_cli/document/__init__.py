"""YAML documents with the position of every value; they know nothing of recipes."""
