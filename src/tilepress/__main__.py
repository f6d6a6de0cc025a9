"""`python -m tilepress` is `tilepress`."""

import sys

from tilepress.cli import main

sys.exit(main())
