"""The settings of a quantization, and the recipes that come with tilepress."""
