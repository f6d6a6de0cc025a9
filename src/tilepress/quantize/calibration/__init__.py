"""The calibration text: documents, token sequences, and how many of them."""
