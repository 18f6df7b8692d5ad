"""Is the container's service well? Exit 0 if BATCHINFER_HEALTH_URL answers 2xx; a batch run has none, and is well."""

from __future__ import annotations

import os
import sys
import urllib.request


def main() -> int:
    """Ask once, for four seconds at most."""
    url = os.environ.get("BATCHINFER_HEALTH_URL")
    if not url:
        return 0
    try:
        # The service is in this container, whatever proxy the environment names.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=4):
            return 0
    except OSError as e:
        print(f"{url}: {e}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
