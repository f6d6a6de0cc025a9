"""Engines that run W8A8S and W8A8SC directories."""
