"""Speed of compressed products on a CUDA device beside dense ones: `tilepress bench gpu`, whose options it takes."""

import sys

from tilepress.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "gpu", *sys.argv[1:]]))
