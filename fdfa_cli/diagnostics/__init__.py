"""Measurements of how a rule changes the gradient, taken beside a training and without effect on it.

`probe` takes a fixed batch at chosen steps through the rule and through exact backprop. `recorder` rebuilds
the network so that it records what passes its blocks, `snapshot` holds what a step of the rule reads, and
`metrics`, `blocks` and `phases` compute the numbers. The recipe's section is `fdfa_cli.recipe.diagnostics`;
docs/diagnostics.md defines each metric.
"""
