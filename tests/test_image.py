"""The image, as far as it can be checked without building it."""

import fnmatch
import re

import runs

DOCKERFILE = runs.ROOT / "Dockerfile"
LOCKS = runs.ROOT / "launch" / "locks"


def instructions():
  """`(name, rest)` of every instruction, with continued lines joined."""
  text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.M)
  return [line.split(maxsplit=1) for line in
          text.replace("\\\n", " ").splitlines() if line.strip()]


def values(name):
  return [rest for each, rest in instructions() if each == name]


def copied():
  return [source for rest in values("COPY") if not rest.startswith("--from")
          for source in rest.split()[:-1]]


def test_the_base_is_pinned_and_the_command_is_dlrl():
  for base in values("FROM"):
    assert re.fullmatch(
      r"python:3\.\d+\.\d+-slim-\w+( AS \w+)?", base), base
  assert values("ENTRYPOINT") == ['["dlrl"]']


def test_all_that_is_copied_exists_and_is_not_ignored():
  assert {"dlrl", "configs"} < set(copied())
  lines = [line for line in (runs.ROOT / ".dockerignore").read_text(
    ).splitlines() if not line.startswith("#")]
  assert lines[0] == "*"
  for source in copied():
    assert (runs.ROOT / source).exists(), source
    assert f"!{source}" in lines
  for other in ("runs", ".env", ".git", "HF_TOKEN"):
    assert not any(fnmatch.fnmatch(other, line.removeprefix("!"))
                   for line in lines if line.startswith("!"))


def test_no_secret_is_built_in():
  for name in ("ARG", "ENV"):
    for rest in values(name):
      assert not re.search("TOKEN|KEY|SECRET|PASSWORD", rest), rest
  assert values("ARG") == ["EXTRA=tpu"]


def test_every_package_is_locked_with_hashes_at_the_tested_version():
  assert {p.stem for p in LOCKS.iterdir()} == {
    "none", "tpu", "cuda12", "cuda13"}
  runs_of_pip = [part for rest in values("RUN") for part in rest.split("&&")
                 if " -r " in part]
  assert len(runs_of_pip) == 2  # for all, and for the extra
  assert all("--require-hashes" in part for part in runs_of_pip)
  tested = dict(line.split(" ;")[0].lower().split("==") for line in (
    runs.ROOT / "constraints.txt").read_text().splitlines()
    if "==" in line and not line.startswith("#")
    and 'python_version < "3.12"' not in line)
  tested = {k.replace("_", "-"): v for k, v in tested.items()}
  locked = {}
  for path in LOCKS.iterdir():
    for block in re.split(r"\n(?=\w)", path.read_text().strip()):
      name, version = re.match(r"([\w.-]+)==(\S+)", block).groups()
      assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), name
      assert locked.setdefault(name, version) == version
      assert version == tested.get(name, version), name
  assert {"jax", "orbax-checkpoint", "libtpu", "jax-cuda12-plugin",
          "jax-cuda13-plugin", "wandb"} <= locked.keys()
