"""Training scales, gains and biases after the rounding."""
