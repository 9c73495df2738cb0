"""``python -m invdiff.app``: the command ``invdiff app``."""

from __future__ import annotations

from invdiff import app
from invdiff.config.help import print_help_if_asked

if __name__ == "__main__":
    print_help_if_asked(str(app.__file__))  # before the imports, which take seconds

    from invdiff import config

    config.run_command(app.main)
