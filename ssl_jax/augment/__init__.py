"""Augmentation on the device: functions of one float32 image, vmapped over random keys."""
