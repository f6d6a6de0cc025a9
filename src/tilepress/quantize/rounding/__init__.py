"""Rounding with error feedback: a layer, the head, the embedding."""
