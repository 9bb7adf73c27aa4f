"""Optimizers, schedules, and the state that optimizers keep."""
