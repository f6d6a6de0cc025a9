"""This machine: devices, memory, and whether work fits on it."""
