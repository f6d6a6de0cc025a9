"""What the user may choose about a quantization, and the recipes that come with tilepress."""
