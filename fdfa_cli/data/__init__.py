"""Data sets: one file each, registered by name; splits and batches live on the device as uint8."""
