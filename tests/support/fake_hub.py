"""A Hub of local directories, served by a thread of the tests' process."""

import base64
import contextlib
import hashlib
import http.server
import json
import os
import re
import shutil
import threading
import urllib.parse

import huggingface_hub.constants
import runs

from dlrl.hub import snapshots

TOKEN = "hf_of_the_tests"


class FakeHub:
  """Serves repositories, takes uploads, and writes down what was asked for.

  Attributes:
    url: the endpoint.
    log: `METHOD PATH` of every request.
    gated: names of repositories whose files need an accepted licence.
    private: names that exist only for who sends TOKEN.
    uploads: files, as {path: bytes}, by name of repository.
    moving: whether the default branch moves with every question for it.
  """

  def __init__(self, root):
    self.root, self.log, self.uploads, self.refs = root, [], {}, {}
    self.gated, self.private, self.moving = set(), set(), False
    hub = self

    class Handler(_Handler):
      pass

    Handler.hub = hub
    self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    self.url = f"http://127.0.0.1:{self.server.server_port}"
    threading.Thread(target=self.server.serve_forever, daemon=True).start()

  def add(self, name, source, *, kind="models", revision="main"):
    """Publishes copies of a directory's files as a commit; returns it."""
    number = len(self.refs.get((kind, name), {})) + len(list(
      self.root.glob(f"{kind}/{name}/*")))
    commit = hashlib.sha1(f"{kind}/{name}/{number}".encode()).hexdigest()
    shutil.copytree(source, self.root / kind / name / commit)
    self.refs.setdefault((kind, name), {})[revision] = commit
    return commit

  def environment(self, cache, **more):
    """Of a child process that uses this Hub."""
    return os.environ | {
      "HF_ENDPOINT": self.url, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0",
      "PYTHONPATH": f"{runs.ROOT}:{runs.ROOT}/tests/support"} | more

  def downloads(self):
    """How often each file was downloaded, by path."""
    gets = [line.split()[1] for line in self.log if line.startswith("GET ")]
    found = [path.split("/resolve/")[1].partition("/")[2]
             for path in gets if "/resolve/" in path]
    return {name: found.count(name) for name in found}


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  hub: FakeHub

  def log_message(self, *args):
    pass

  def reply(self, code, body=b"", **headers):
    if not isinstance(body, bytes):
      body = json.dumps(body).encode()
      headers.setdefault("Content_Type", "application/json")
    self.send_response(code)
    headers = {"Content_Length": str(len(body))} | headers
    for key, value in headers.items():
      self.send_header(key.replace("_", "-"), value)
    self.end_headers()
    if self.command != "HEAD":
      with contextlib.suppress(ConnectionError):
        self.wfile.write(body)

  def refuse(self, code, what):
    self.reply(code, {}, X_Error_Code=what, X_Error_Message=what)

  def commit(self, kind, name, revision):
    """The commit, or None after a reply that there is none."""
    known = self.hub.refs.get((kind, name))
    allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
    if known is None or (name in self.hub.private and not allowed):
      self.refuse(404 if allowed else 401, "RepoNotFound")
      return None
    revision = urllib.parse.unquote(revision or "main")
    kept = (self.hub.root / kind / name / revision).is_dir()
    if revision not in known and not kept:
      self.refuse(404, "RevisionNotFound")
      return None
    return known.get(revision, revision)

  def do_GET(self):
    path = urllib.parse.urlsplit(self.path).path
    self.hub.log.append(f"{self.command} {path}")
    if found := re.fullmatch(
        r"/api/(models|datasets)/([^/]+/[^/]+)"
        r"(?:/(revision|tree)/([^/]+)(?:/.*)?)?", path):
      self.describe(*found.groups())
    elif found := re.fullmatch(
        r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
      self.send_file(*found.groups())
    else:
      self.refuse(404, "RepoNotFound")

  do_HEAD = do_GET

  def describe(self, kind, name, what, revision):
    commit = self.commit(kind, name, revision)
    if commit is None:
      return
    root = self.hub.root / kind / name / commit
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    if what == "tree":
      self.reply(200, [{
        "type": "file", "path": path.relative_to(root).as_posix(),
        "size": path.stat().st_size, "oid": _oid(path)} for path in files])
      return
    self.reply(200, {
      "id": name, "sha": commit, "private": name in self.hub.private,
      "siblings": [{"rfilename": path.relative_to(root).as_posix()}
                   for path in files]})
    if self.hub.moving:
      with contextlib.suppress(FileExistsError):
        self.hub.add(name, root, kind=kind)

  def send_file(self, kind, name, revision, file):
    kind = kind or "models"
    commit = self.commit(kind, name, revision)
    if commit is None:
      return
    if name in self.hub.gated:
      self.refuse(403, "GatedRepo")
      return
    path = self.hub.root / kind / name / commit / urllib.parse.unquote(file)
    if not path.is_file():
      self.refuse(404, "EntryNotFound")
      return
    data = path.read_bytes()
    self.reply(200, data, ETag=f'"{_oid(path)}"', X_Repo_Commit=commit)

  def do_POST(self):
    path = urllib.parse.urlsplit(self.path).path
    self.hub.log.append(f"POST {path}")
    size = int(self.headers.get("Content-Length") or 0)
    body = self.rfile.read(size)
    if self.headers.get("Transfer-Encoding") == "chunked":
      body = b"".join(self.chunks())
    if self.headers.get("Authorization") != f"Bearer {TOKEN}":
      self.refuse(401, "")
    elif path == "/api/repos/create":
      asked = json.loads(body)
      name = f"{asked['organization']}/{asked['name']}"
      self.hub.refs.setdefault(("models", name), {})["main"] = "0" * 40
      if asked.get("visibility") == "private" or asked.get("private"):
        self.hub.private.add(name)
      self.reply(200, {"url": f"{self.hub.url}/{name}", "id": name})
    elif path == "/api/validate-yaml":
      self.reply(200, {"errors": [], "warnings": []})
    elif found := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
      self.reply(200, {"files": [
        {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
        for file in json.loads(body)["files"]]})
    elif found := re.fullmatch(r"/api/models/(.+)/commit/main", path):
      entries = [json.loads(line) for line in body.splitlines()]
      self.hub.uploads.setdefault(found[1], {}).update({
        entry["value"]["path"]: base64.b64decode(entry["value"]["content"])
        for entry in entries if entry["key"] == "file"})
      self.reply(200, {"commitOid": "1" * 40, "commitUrl":
                       f"{self.hub.url}/{found[1]}/commit/{'1' * 40}"})
    else:
      self.refuse(404, "RepoNotFound")

  def chunks(self):
    while size := int(self.rfile.readline(), 16):
      yield self.rfile.read(size)
      self.rfile.readline()
    self.rfile.readline()


def _oid(path):
  return hashlib.sha1(path.read_bytes()).hexdigest()


@contextlib.contextmanager
def used(root, monkeypatch):
  """A Hub that this process uses, with an empty cache."""
  made, cache = FakeHub(root / "published"), root / "cache"
  constants = huggingface_hub.constants
  # What the variable HF_ENDPOINT sets when the package is imported.
  monkeypatch.setattr(constants, "ENDPOINT", made.url)
  monkeypatch.setattr(
    constants, "HUGGINGFACE_CO_URL_TEMPLATE",
    made.url + "/{repo_id}/resolve/{revision}/{filename}")
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
  monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
  monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(cache / "tokens"))
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
  forget()
  yield made
  forget()
  made.server.shutdown()
  made.server.server_close()


def forget():
  """As a new process: nothing is known of commits and downloads."""
  snapshots._commit.cache_clear()
  snapshots._downloaded.cache_clear()
