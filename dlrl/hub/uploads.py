"""Uploads a directory to a repository of the Hugging Face Hub.

Nothing is sent until the caller has shown `Target.described` to the user.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable

import huggingface_hub
from huggingface_hub import errors

from dlrl import strict
from dlrl.hub import snapshots

# Loaders prefer an index, or take all of the safetensors that there are.
_WEIGHTS = (".safetensors", ".index.json")
_REFUSE = functools.partial(strict.FlagError, "push")


@dataclasses.dataclass(frozen=True)
class Target:
  """A repository that something is to be uploaded to.

  Attributes:
    repo: its name.
    private: whether only its owners see it.
    files: those in it; None if it does not exist yet.
  """

  repo: snapshots.Repo
  private: bool
  files: frozenset[str] | None

  @property
  def described(self) -> str:
    """The repository in words: where, new or not, and who sees it."""
    kind = "private" if self.private else "PUBLIC"
    state = f"a new {kind} repository" if self.files is None else (
      f"which exists and is {kind}")
    return f"{self.repo.page}, {state}"


def find(name: str, visibility: str) -> Target:
  """The repository `name`, which may not exist yet.

  Args:
    name: ORG/NAME.
    visibility: "private" or "public", which it has to be; "": any, and
      private if it does not exist.

  Raises:
    strict.FlagError: `name` cannot be one, there is no token, the Hub cannot be
      asked, or the repository is not as `visibility` says.
  """
  token = huggingface_hub.get_token()
  if not snapshots.is_name(name):
    raise _REFUSE(name, "must be ORG/NAME")
  if not token:
    raise _REFUSE(name, "needs a token that may write there: set HF_TOKEN, or "
                  "run `hf auth login`")
  repo = snapshots.Repo(name)
  try:
    info = huggingface_hub.HfApi().model_info(name)
  except errors.RepositoryNotFoundError as e:
    if isinstance(e, errors.GatedRepoError) or e.response.status_code == 401:
      raise _REFUSE(name, snapshots.why(e, repo)) from e
    return Target(repo, visibility != "public", None)
  except snapshots.FAILURES as e:
    raise _REFUSE(name, snapshots.why(e, repo)) from e
  private = bool(info.private)
  if visibility and private != (visibility == "private"):
    raise strict.FlagError(
      "push_as", visibility, f"{repo.page} exists and is "
      f"{'private' if private else 'public'}; name another one, or change it "
      "there")
  return Target(repo, private, frozenset(
    file.rfilename for file in info.siblings or ()))


def upload(target: Target, directory: pathlib.Path,
           say: Callable[[str], None]) -> None:
  """Uploads a directory's files; creates the repository if it is new.

  Args:
    target: of `find`.
    directory: has the files.
    say: prints the address of the commit.

  Raises:
    strict.FlagError: the repository has weights that would stay beside these,
      or the upload fails; says how to repeat it.
  """
  name, api = target.repo.name, huggingface_hub.HfApi()
  again = (f"{directory} is complete; upload it with "
           f"`hf upload {name} {directory}`")
  mixed = sorted(
    file for file in (target.files or frozenset()) if file.endswith(_WEIGHTS)
    and not (directory / file).exists())
  if mixed:
    raise _REFUSE(
      name, f"has {', '.join(mixed[:3])}, which would be mixed with the new "
      f"weights; remove them, or choose another repository. {again}")
  try:
    if target.files is None:
      # Not `exist_ok`: whoever made it meanwhile decided who sees it.
      api.create_repo(name, private=target.private)
    commit = api.upload_folder(
      repo_id=name, folder_path=directory, commit_message="Export of dlrl")
  except snapshots.FAILURES as e:
    raise _REFUSE(name, f"the upload failed: {snapshots.said(e)}. {again}"
                  ) from e
  say(f"uploaded {directory} as {commit.commit_url}")
