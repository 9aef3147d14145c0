"""The task, and how it is asked."""

import dataclasses

from dlrl.config.kinds import Names
from dlrl.config.kinds import Restart
from dlrl.config.kinds import Weights
from dlrl.strict import knob


@dataclasses.dataclass(frozen=True)
class TaskConfig:
  """The task that is learned, and how it is asked."""

  name: str = knob(
    "sudoku", "a key of dlrl.tasks.TASKS, 'files', your own as "
    "'package.module:name', or several joined by '+'")
  weights: Weights = knob(
    (), "with several tasks, their shares of a batch; (): equal shares")
  prompt: str = knob("bare", "wording of the question: a prompt of the task")
  prompt_file: str = knob(
    "", "file with another wording, see dlrl.tasks.user_files.templates",
    restart=Restart.FREE)
  prompt_text: str = knob(
    "", "content of prompt_file; filled in when the config is read")
  few_shot: int = knob(
    0, "worked examples from the train split before each question", at_least=0)
  train_files: str = knob(
    "", "for the task 'files': JSONL or Parquet, separated by commas; "
    "hf://datasets/ORG/NAME[@REVISION]/FILE is on the Hub",
    restart=Restart.FREE)
  validation_files: str = knob(
    "", "same as train_files, for validation", restart=Restart.FREE)
  test_files: str = knob(
    "", "same as train_files, for the test; '': no test, and the summary of a "
    "run is of the validation", restart=Restart.FREE)
  bad_rows: str = knob(
    "error", "malformed rows of files: an error, or skipped and counted",
    choices=("error", "skip"), restart=Restart.FREE)
  sandbox_allow: Names = knob(
    (), "protections that generated code may run without where this machine "
    "lacks them: files, network, processes", restart=Restart.FREE)
  data_dir: str = knob(
    "~/tensorflow_datasets", "prepared data sets; made on first use",
    restart=Restart.FREE)
  prompt_length: int = knob(
    32, "longest prompt", unit="tokens", at_least=1)
  long_prompts: str = knob(
    "error", "longer prompts: an error, or cut at their beginning and counted",
    choices=("error", "truncate"), restart=Restart.FREE)

  @property
  def truncates(self) -> bool:
    """Whether prompts that are too long are cut."""
    return self.long_prompts == "truncate"
