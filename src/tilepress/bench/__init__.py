"""Measuring: the machine, the kernel beside its peers, the codec, and a whole model. `tilepress bench` prints it."""
