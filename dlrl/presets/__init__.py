"""Settings that several config files share; the files are in `configs/`.

Each function returns a new `ConfigDict`, or changes one in place.
"""
