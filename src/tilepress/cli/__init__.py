"""The command line: `tilepress COMMAND …`. One file a command, no logic."""

from tilepress.cli.app import main

__all__ = ["main"]
