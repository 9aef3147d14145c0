"""`python -m dlrl.sandbox`: prints what protects this machine from programs."""

from dlrl.sandbox import probe
from dlrl.sandbox import sandbox


def main() -> None:
  """Prints one line, also where a protection is missing."""
  with sandbox.Sandbox(allow_missing=probe.EFFECTS) as box:
    print(box.protections)


if __name__ == "__main__":
  main()
