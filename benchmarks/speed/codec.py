"""Size of compressed weights and speed of the codec: `tilepress bench codec`, whose options it takes."""

import sys

from tilepress.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "codec", *sys.argv[1:]]))
