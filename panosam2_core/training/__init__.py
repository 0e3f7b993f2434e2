"""Training: schedule, loop, checkpoints."""
