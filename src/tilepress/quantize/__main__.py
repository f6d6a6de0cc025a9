"""`python -m tilepress.quantize`, and `torchrun --nproc_per_node N -m tilepress.quantize`: the command `quant`."""

from __future__ import annotations

import sys

from tilepress.cli import main

if __name__ == "__main__":
    sys.exit(main(["quant", *sys.argv[1:]]))
