"""Training: the loop, torch's optimizers and schedules as options, checkpoints."""
