"""Optimizers and schedules that read the training step; one optimizer state per parameter group."""
