"""Bits: their cost in the codec, their weight in a rounding decision, and their allocation."""
