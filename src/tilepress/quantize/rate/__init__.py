"""Bits: what the codec takes, how a decision weighs them, and where they go."""
