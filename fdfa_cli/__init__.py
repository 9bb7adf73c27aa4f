"""fdfa: train deep networks without backpropagating errors, and compare the rules that do."""

__version__ = "0.2.0"
