"""What a process runs: the versions of its packages, and the commit."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess

import dlrl

# Those that decide about numbers, or about what a checkpoint looks like.
PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint")
_ROOT = pathlib.Path(dlrl.__file__).parents[1]


def found() -> dict[str, str | None]:
  """Versions by name, and `commit`.

  A package that is not installed, or has no metadata, has the version None; an
  installed wheel has the commit None.
  """
  return {"dlrl": dlrl.__version__, "commit": commit(_ROOT),
          "python": platform.python_version(),
          **{name: _version(name) for name in PACKAGES}}


def commit(root: pathlib.Path) -> str | None:
  """The commit of the checkout `root`, ending in `-dirty` if files differ.

  Args:
    root: a directory. One that merely lies within a checkout has no commit.

  Returns:
    40 or 64 hexadecimal digits and what follows; None if there is no
    checkout, no git, or none that answers within ten seconds.
  """
  if not (root / ".git").exists():  # a file in a worktree
    return None
  # A hook of another repository that starts a run sets GIT_DIR and the like.
  environment = {
    k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
  try:
    return subprocess.run(
      ["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=64",
       "--exclude=*"],
      env=environment, capture_output=True, check=True, encoding="utf-8",
      timeout=10).stdout.strip()
  except (OSError, subprocess.SubprocessError):
    return None


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None
