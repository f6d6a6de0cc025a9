"""Models: their architectures, layer inputs, configs and floating-point operations."""
