"""The fast form on a CUDA device: codes of one width a tile, and patches by row for what lies outside its values."""
