"""Compare loaders: ``python -m benchmarks.peers --output peers.json``."""

import sys

from benchmarks.peers.suite import main

if __name__ == "__main__":
    print(main(sys.argv[1:]))
