"""Models and data sets of the Hugging Face Hub, as directories of its cache.

A name, ORG/NAME or ORG/NAME@REVISION, stands for the files of one commit. Only
those that are asked for are downloaded: of models neither code nor pickles.
`huggingface_hub` locks each file, so that the processes of a host that share a
cache download it once.
"""

import dataclasses
import functools
import glob
import os
import pathlib
import re
from collections.abc import Callable
from collections.abc import Sequence

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub import errors

# Makes the error about a name that cannot be used, from what to do about it.
Refuse = Callable[[str], Exception]

# The files of a model from which its architecture, tokenizer and chat template
# are read, and those of its parameters.
DESCRIPTION = (
  "config.json", "generation_config.json", "tokenizer_config.json",
  "tokenizer.json", "vocab.json", "merges.txt", "chat_template.jinja")
WEIGHTS = ("*.safetensors", "model.safetensors.index.json")
SCHEME = "hf://"

_NAME = r"(?P<name>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95})"
_MODEL = re.compile(
  rf"{_NAME}(@(?P<revision>(?!.*\.\.)\w[\w./-]{{0,199}}))?", re.ASCII)
# The branches refs/... are the only ones with a slash that such paths can name.
_DATA = re.compile(
  rf"hf://datasets/{_NAME}"
  r"(@(?P<revision>refs/(convert|pr)/\w{1,99}|\w[\w.-]{0,199}))?/(?P<file>.+)",
  re.ASCII)
_FORM = "hf://datasets/ORG/NAME[@REVISION]/FILE"
# Errors of the library, the connection and the disk.
FAILURES = (OSError, ValueError, errors.HTTPError,
            errors.RevisionResolutionError, errors.XetDownloadError)


@dataclasses.dataclass(frozen=True)
class Repo:
  """A repository of the Hub.

  Attributes:
    name: ORG/NAME.
    revision: a branch, tag or commit; "": the default branch.
    kind: "model" or "dataset".
  """

  name: str
  revision: str = ""
  kind: str = "model"

  @property
  def page(self) -> str:
    """Its address."""
    folder = "datasets/" if self.kind == "dataset" else ""
    return f"{constants.ENDPOINT}/{folder}{self.name}"

  def __str__(self) -> str:
    """ORG/NAME@REVISION."""
    return self.name + (f"@{self.revision}" if self.revision else "")


def model(text: str) -> Repo | None:
  """The model that a setting names; None if its value is a path.

  What exists by that very name is a path.
  """
  found = _MODEL.fullmatch(text)
  if not found or os.path.lexists(text):
    return None
  return Repo(found["name"], found["revision"] or "")


def is_name(text: str) -> bool:
  """Whether `text` is ORG/NAME."""
  return re.fullmatch(_NAME, text, re.ASCII) is not None


def fetch(repo: Repo, patterns: Sequence[str], refuse: Refuse) -> pathlib.Path:
  """The directory of a snapshot, with at least the files that are asked for.

  Args:
    repo: which one; without a commit, it is of the commit that this process saw
      first.
    patterns: names of files relative to the directory, as of `glob`. It is no
      error if there is none.
    refuse: makes the error to raise.

  Raises:
    What `refuse` makes: there is no such repository or revision, it may not be
      read, or it is neither in the cache nor can be downloaded.
  """
  repo = at_commit(repo, refuse)
  try:
    return _downloaded(repo, tuple(patterns))
  except FAILURES as e:
    raise refuse(_explained(e, repo)) from e


def at_commit(repo: Repo, refuse: Refuse) -> Repo:
  """The repository with the commit that its revision stands for.

  Without a network it is the one that was read last. Errors are as of `fetch`.
  """
  try:
    return dataclasses.replace(repo, revision=_commit(repo))
  except FAILURES as e:
    raise refuse(_explained(e, repo)) from e


# Only what succeeds is kept, so that a process can try again.
@functools.cache
def _commit(repo: Repo) -> str:
  return huggingface_hub.HfApi().resolve_revision(
    repo.name, repo_type=repo.kind, revision=repo.revision or None).resolved


@functools.cache
def _downloaded(repo: Repo, patterns: tuple[str, ...]) -> pathlib.Path:
  # `*` of the Hub's patterns matches slashes: one more than asked for is not
  # wanted, unless by `**`, which may also stand for no folder.
  deepest = max(pattern.count("/") for pattern in patterns)
  deeper = None if "**" in "".join(patterns) else ["*/" * (deepest + 1) + "*"]
  return pathlib.Path(huggingface_hub.snapshot_download(
    repo.name, repo_type=repo.kind, revision=repo.revision,
    allow_patterns=[x for pattern in patterns for x in (
      pattern.replace("**/", "*"), glob.escape(pattern))],
    ignore_patterns=deeper))


def data_files(path: str, refuse: Refuse) -> str:
  """The path, or pattern, in the cache of `hf://datasets/ORG/NAME/FILE`.

  Args:
    path: FILE may be a pattern, as of `glob`.
    refuse: makes the error to raise.

  Raises:
    What `refuse` makes: `path` has another form, or as `fetch`.
  """
  repo, file = _data(path, refuse)
  return str(fetch(repo, [file], refuse) / file)


def data_at_commit(path: str, refuse: Refuse) -> str:
  """`hf://datasets/ORG/NAME@COMMIT/FILE`; arguments as of `data_files`."""
  repo, file = _data(path, refuse)
  return f"hf://datasets/{at_commit(repo, refuse)}/{file}"


def _data(path: str, refuse: Refuse) -> tuple[Repo, str]:
  found = _DATA.fullmatch(path)
  if not found or ".." in found["file"].split("/"):
    raise refuse(f"{path!r} does not have the form {_FORM}")
  return (Repo(found["name"], found["revision"] or "", "dataset"),
          found["file"])


def without_commits(text: str) -> str:
  """`text` without the `@COMMIT`s that `at_commit` gives to names in it."""
  return re.sub(r"@[0-9a-f]{40}\b", "", text)


def _explained(error: Exception, repo: Repo) -> str:
  """Says in one line what is wrong with a name and what can be done."""
  if repo.kind == "dataset":
    return why(error, repo)
  return (f"there is no such directory, and {why(error, repo)}; or name the "
          "directory of a downloaded checkpoint")


def why(error: Exception, repo: Repo) -> str:
  """Says what an error of the library about a repository means."""
  if isinstance(error, errors.GatedRepoError):
    return (f"{repo.page} is gated: accept its terms there, and set HF_TOKEN "
            "to a token of your account")
  if isinstance(error, errors.RevisionNotFoundError):
    return (f"{repo.page} has no revision {repo.revision!r}: name a branch, a "
            "tag or a commit")
  status = (error.response.status_code
            if isinstance(error, errors.HfHubHTTPError) else 0)
  if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
    return (f"{constants.ENDPOINT} has no {repo.kind} {repo.name!r} that can "
            "be read: correct the name, or set HF_TOKEN to a valid token if it "
            "is private")
  cached = f"it is not complete in the cache {constants.HF_HUB_CACHE}"
  if constants.is_offline_mode():
    return f"HF_HUB_OFFLINE is set, and {cached}: unset it to download"
  return (f"{repo.page} cannot be downloaded ({said(error)}), and {cached}: "
          "try again")


def said(error: Exception) -> str:
  """The first line of an error, or of the one behind the library's own."""
  cause: BaseException = error
  while isinstance(cause, errors.LocalEntryNotFoundError
                   | errors.RevisionResolutionError) and cause.__cause__:
    cause = cause.__cause__
  return str(cause).strip().partition("\n")[0] or type(cause).__name__
