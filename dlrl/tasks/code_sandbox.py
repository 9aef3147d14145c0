"""Moved to `python -m dlrl.sandbox`; this name goes with version 0.3."""

from dlrl.sandbox import __main__ as command

if __name__ == "__main__":
  command.main()
