"""`dlrl export --push`: nothing is sent without a yes."""

import fake_hub
import own_flags
import pytest
import terminals

from dlrl import export
from dlrl import strict
from dlrl.hub import uploads

FILES = {"config.json": b"{}\n", "model.safetensors": bytes(range(256)),
         "README.md": b"# A model\n"}


@pytest.fixture
def run(hub, tmp_path, monkeypatch):
  """Runs the command; its export writes FILES. An answer stands for a terminal.
  """
  monkeypatch.setenv("HF_TOKEN", fake_hub.TOKEN)
  out = tmp_path / "out"

  def write(*args, **kwargs):
    out.mkdir()
    for name, content in FILES.items():
      (out / name).write_bytes(content)

  monkeypatch.setattr(export, "export", write)

  def go(*args, answer=None):
    monkeypatch.setattr("sys.stdin.isatty", lambda: answer is not None)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    with own_flags.of("export") as values:
      values(["dlrl", "--workdir=w", f"--out={out}", *args])
      export.run()
    return out

  return go


def posts(hub):
  return [line for line in hub.log if line.startswith("POST")]


def test_nothing_is_sent_without_the_flag(hub, run):
  assert run().is_dir()
  assert hub.log == []


def test_a_yes_uploads_to_a_new_private_repository(hub, run, capsys):
  run("--push=org/mine", answer="yes")
  assert hub.uploads == {"org/mine": FILES}
  assert hub.private == {"org/mine"}
  said = capsys.readouterr().out
  assert f"to {hub.url}/org/mine, a new private repository?" in said
  assert f"as {hub.url}/org/mine/commit/{'1' * 40}" in terminals.unbroken(said)


@pytest.mark.parametrize("answer", ["", "y", "no", "Yes please"])
def test_anything_else_writes_and_sends_nothing(answer, hub, run, tmp_path):
  with pytest.raises(strict.FlagError, match="--push=org/mine: not confirmed"):
    run("--push=org/mine", answer=answer)
  assert not (tmp_path / "out").exists()
  assert posts(hub) == []


def test_without_a_terminal_the_answer_is_a_flag(hub, run, tmp_path):
  with pytest.raises(strict.FlagError, match=(
      r"org/mine, a new private repository; .*--push_as=private")):
    run("--push=org/mine")
  assert not (tmp_path / "out").exists()
  assert posts(hub) == []
  run("--push=org/mine", "--push_as=public")
  assert hub.uploads == {"org/mine": FILES}
  assert hub.private == set()


def test_who_sees_an_existing_repository_is_said_and_checked(
    hub, run, tmp_path, capsys):
  empty = tmp_path / "empty"
  empty.mkdir()
  hub.add("org/mine", empty)
  with pytest.raises(strict.FlagError, match=(
      r"--push_as=private: .*/org/mine exists and is public; name another")):
    run("--push=org/mine", "--push_as=private")
  assert posts(hub) == []
  run("--push=org/mine", answer="yes")
  assert "/org/mine, which exists and is PUBLIC?" in capsys.readouterr().out
  assert hub.uploads == {"org/mine": FILES}
  assert "POST /api/repos/create" not in hub.log


def test_new_weights_are_not_mixed_with_others(hub, run, tmp_path):
  old = tmp_path / "old"
  old.mkdir()
  (old / "model.safetensors.index.json").write_text("{}")
  hub.add("org/mine", old)
  with pytest.raises(strict.FlagError, match=(
      r"has model.safetensors.index.json, which .*`hf upload org/mine .*out`")):
    run("--push=org/mine", "--push_as=public")
  assert posts(hub) == []
  assert (tmp_path / "out").is_dir()


def test_an_upload_that_fails_says_how_to_repeat_it(hub, run, monkeypatch):
  def fail(*args, **kwargs):
    raise ConnectionError("the line is dead")

  monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", fail)
  with pytest.raises(strict.FlagError, match=(
      r"upload failed: the line is dead. .*/out is complete; upload it with "
      r"`hf upload org/mine .*/out`")):
    run("--push=org/mine", "--push_as=private")


@pytest.mark.parametrize(("name", "token", "said"), [
  ("mine", fake_hub.TOKEN, "must be ORG/NAME"),
  ("org/mine@main", fake_hub.TOKEN, "must be ORG/NAME"),
  ("org/mine", "", "set HF_TOKEN, or run `hf auth login`"),
  ("org/mine", "wrong", "set HF_TOKEN to a valid token")])
def test_a_target_that_cannot_be_is_refused(
    name, token, said, hub, monkeypatch):
  monkeypatch.setenv("HF_TOKEN", token)
  with pytest.raises(strict.FlagError) as error:
    uploads.find(name, "")
  assert str(error.value).startswith(f"--push={name}: ")
  assert said in str(error.value)


def test_an_answer_without_a_question_is_refused(run):
  with pytest.raises(strict.FlagError, match="--push_as=public: needs --push"):
    run("--push_as=public")
