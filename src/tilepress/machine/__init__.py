"""This machine: devices, memory, and the requirements of commands."""
