"""Recipes: what a run is to do, as a strict YAML document."""
