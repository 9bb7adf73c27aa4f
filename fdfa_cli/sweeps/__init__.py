"""Sweeps: many trainings over a space of configurations and seeds.

`recipe.sweep` is the recipe's section, `plan` turns a recipe into trials, `search` draws configurations,
`observation` is what they came to, `prune` decides which go on, `run` puts these together, `result` ranks the
configurations at the end and `table` shows them.
"""
