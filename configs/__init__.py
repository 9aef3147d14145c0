"""One file per method, for `dlrl train --config=FILE.py[:PRESET]`."""
