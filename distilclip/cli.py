"""The command's address in version 0.1, kept for those who call it.

The module is `distilclip.command.cli`; both names are one and the same module.
"""

import sys

from distilclip.command import cli

if __name__ == "__main__":
    sys.exit(cli.main())
sys.modules[__name__] = cli
