"""Sweeps: many trainings over a space of configurations and seeds.

`options` is the recipe's section, `plan` turns a recipe into trials, `search` samples spaces (`tpe` learns
from results), `prune` decides who goes on, `engines` train, `store` knows what is done, `run` puts these
together, `view` shows it while it runs and `table` at the end.
"""
