"""safetensors files: read lazily, written tensor after tensor."""
