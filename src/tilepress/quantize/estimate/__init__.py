"""What a quantization will need: memory, disk, time, size."""
