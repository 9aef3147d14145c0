"""One file per method, for `python -m dlrl.main --config=FILE.py[:PRESET]`."""
