"""Speed of the kernel beside its peers: `tilepress bench kernel`, whose options it takes."""

import sys

from tilepress.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "kernel", *sys.argv[1:]]))
