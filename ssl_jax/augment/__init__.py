"""Augmentation on the device: functions of one float32 (H, W, C) image, to be vmapped over keys."""
