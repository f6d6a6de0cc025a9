"""Exact transforms of a layer, and the ranges of its activations."""
