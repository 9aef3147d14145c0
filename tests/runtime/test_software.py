"""The record of what a process runs, against git and what is imported."""

import subprocess
import sys

import flax
import jax
import jaxlib
import optax
import pytest

import dlrl
from dlrl.runtime import software


def git(root, *args):
  return subprocess.run(
    ["git", "-C", root, "-c", "user.name=n", "-c", "user.email=e", *args],
    check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path):
  root = tmp_path / "checkout"
  root.mkdir()
  git(root, "init")
  (root / "file").write_text("1")
  git(root, "add", "file")
  git(root, "commit", "-m", "first")
  git(root, "tag", "-a", "v1", "-m", "v1")
  return root


def test_the_commit_of_a_checkout_tells_whether_files_were_changed(checkout):
  head = git(checkout, "rev-parse", "HEAD")
  assert software.commit(checkout) == head
  (checkout / "file").write_text("2")
  assert software.commit(checkout) == f"{head}-dirty"


def test_a_worktree_has_its_own_commit_whatever_a_hook_has_set(
    checkout, tmp_path, monkeypatch):
  git(checkout, "worktree", "add", tmp_path / "other", "-b", "b")
  (tmp_path / "other" / "file").write_text("2")
  git(tmp_path / "other", "commit", "-a", "-m", "second")
  monkeypatch.setenv("GIT_DIR", str(checkout / ".git"))
  found = software.commit(tmp_path / "other")
  monkeypatch.delenv("GIT_DIR")
  assert found == git(tmp_path / "other", "rev-parse", "HEAD")
  assert found != git(checkout, "rev-parse", "HEAD")


def test_there_is_no_commit_without_a_checkout_or_git(
    checkout, tmp_path, monkeypatch):
  inside = checkout / "site-packages"  # of an environment in a checkout
  inside.mkdir()
  assert software.commit(inside) is None
  monkeypatch.setenv("PATH", str(tmp_path))
  assert software.commit(checkout) is None


def test_a_checkout_without_a_commit_has_none(tmp_path):
  git(tmp_path, "init")
  assert software.commit(tmp_path) is None


def test_versions_are_those_that_are_imported(monkeypatch):
  found = software.found()
  assert found["python"] == sys.version.split()[0]
  for module in (dlrl, flax, jax, jaxlib, optax):
    assert found[module.__name__] == module.__version__
  assert found["orbax-checkpoint"]
  monkeypatch.setattr(software, "PACKAGES", ("no-such-package",))
  assert software.found()["no-such-package"] is None
