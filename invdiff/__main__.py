"""``python -m invdiff``: the command ``invdiff``."""

from __future__ import annotations

from invdiff.commands import main

if __name__ == "__main__":
    main()
