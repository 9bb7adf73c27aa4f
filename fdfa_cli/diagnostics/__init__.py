"""What a rule does to the gradient, measured beside a training and without effect on it.

`options` is the recipe's section; `probe` takes a fixed batch at chosen moments through the rule and through
exact backprop, with `watch` recording what passes the blocks, and puts the figures of `figures` together.
docs/diagnostics.md says what each figure is.
"""
