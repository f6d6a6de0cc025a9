"""Estimates of what a quantization needs: memory, disk, time, size."""
