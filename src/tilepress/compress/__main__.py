"""`python -m tilepress.compress`, and `torchrun --nproc_per_node N -m tilepress.compress`: the command `compress`."""

from __future__ import annotations

import sys

from tilepress.cli import main

if __name__ == "__main__":
    sys.exit(main(["compress", *sys.argv[1:]]))
