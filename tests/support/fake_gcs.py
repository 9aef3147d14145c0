"""A Google Cloud Storage in memory, served by a thread of the tests' process.

As far as TensorStore, gcsfs and google-cloud-storage use its JSON API: objects
with generations, preconditions, resumable uploads, listings, batches.
"""

import contextlib
import http.server
import json
import os
import re
import sys
import threading
import time
import urllib.parse

import runs

# Before gcsfs is imported: with it, gcsfs asks a server of Google's for the
# kind of a bucket, and warns each time that it could not.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
EMULATOR = ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL")


class FakeGcs:
  """Serves buckets, and does what `fault` says with requests.

  Attributes:
    url: the endpoint.
    buckets: names of those that exist.
    objects: (content, generation) by (bucket, name).
    log: (method, name) of every request; the name is "" for listings.
    fault: what to do with a request (method, name), before it is carried out:
      None: nothing; seconds to wait; a status to answer with; "cut": the
      connection ends, and nothing has happened; "lost": it is carried out, and
      the connection ends before the answer.
  """

  def __init__(self):
    self.buckets, self.objects, self.log = set(), {}, []
    self.uploads, self.lock, self.generation = {}, threading.Lock(), 0
    self.fault = lambda method, name: None

    class Handler(_Handler):
      store = self

    self.server = _Server(("127.0.0.1", 0), Handler)
    self.url = f"http://127.0.0.1:{self.server.server_port}"
    threading.Thread(target=self.server.serve_forever, daemon=True).start()

  def environment(self, **more):
    """Of a child process that uses these buckets."""
    return os.environ | dict.fromkeys(EMULATOR, self.url) | {
      "PYTHONPATH": f"{runs.ROOT}:{runs.ROOT}/tests/support"} | more

  def put(self, bucket, name, data, expected=None):
    """The generation of what was written; None: it is not the expected one."""
    with self.lock:
      _, there = self.objects.get((bucket, name), (b"", 0))
      if expected is not None and int(expected) != there:
        return None
      self.generation = max(self.generation + 1, time.time_ns() // 1000)
      self.objects[bucket, name] = data, self.generation
      return self.generation

  def files(self, url):
    """The contents of all objects below gs://BUCKET/PATH, by name."""
    bucket, _, path = url.removeprefix("gs://").partition("/")
    prefix = f"{path}/" if path else ""
    return {name.removeprefix(prefix): data
            for (where, name), (data, _) in sorted(self.objects.items())
            if where == bucket and name.startswith(prefix)}

  def add(self, url, directory):
    """Uploads the files of a directory."""
    bucket, _, path = url.removeprefix("gs://").partition("/")
    for file in directory.rglob("*"):
      if file.is_file():
        self.put(bucket, f"{path}/{file.relative_to(directory)}",
                 file.read_bytes())


class _Server(http.server.ThreadingHTTPServer):
  daemon_threads = True

  def handle_error(self, request, address):
    # Clients that are killed end their connections.
    if not isinstance(sys.exc_info()[1], ConnectionError):
      super().handle_error(request, address)


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  disable_nagle_algorithm = True
  wbufsize = 1 << 16
  store: FakeGcs

  def log_message(self, *args):
    pass

  def reply(self, code, body=b"", **headers):
    if not isinstance(body, bytes):
      body = json.dumps(body).encode()
    self.send_response(code)
    for key, value in headers.items():
      self.send_header(key.replace("_", "-"), value)
    self.send_header("Content-Length", str(len(body)))
    self.end_headers()
    with contextlib.suppress(ConnectionError):
      self.wfile.write(body)
      self.wfile.flush()

  def body(self):
    if "chunked" not in self.headers.get("Transfer-Encoding", ""):
      return self.rfile.read(int(self.headers.get("Content-Length") or 0))
    found = b""
    while size := int(self.rfile.readline(), 16):
      found += self.rfile.read(size)
      self.rfile.readline()
    self.rfile.readline()
    return found

  def answer(self):
    url = urllib.parse.urlsplit(self.path)
    query = {key: values[0] for key, values in urllib.parse.parse_qs(
      url.query, keep_blank_values=True).items()}
    data = self.body()
    found = re.search(r"/b/([^/]+)(?:/o(?:/(.*))?)?$", url.path)
    bucket = found[1] if found else ""
    name = urllib.parse.unquote(found[2] or "") if found else ""
    name = name or query.get("name", "")
    if "upload_id" in query:
      name = self.store.uploads[query["upload_id"]][0]
    self.store.log.append((self.command, name))
    fault = self.store.fault(self.command, name)
    if isinstance(fault, float):
      time.sleep(fault)
    elif isinstance(fault, int):
      self.reply(fault, {"error": {"code": fault, "message": "a fault"}})
      return
    elif fault == "cut":
      self.close_connection = True
      return
    elif fault == "lost":
      self.reply = lambda *args, **more: setattr(self, "close_connection", True)
    self.carry_out(url.path, bucket, name, query, data)

  do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = answer

  def carry_out(self, path, bucket, name, query, data):
    if path.startswith("/batch"):
      self.batch(data)
    elif bucket not in self.store.buckets:
      self.reply(404, {"error": {"code": 404, "message": "no such bucket"}})
    elif path.startswith("/upload"):
      self.upload(bucket, name, query, data)
    elif found := re.fullmatch(
        r".*?/b/[^/]+/o/([^/]+)/moveTo/o/([^/]+)", path):
      source, name = map(urllib.parse.unquote, found.groups())
      data, _ = self.store.objects.pop((bucket, source), (None, 0))
      if data is None:
        self.reply(404, {"error": {"code": 404, "message": "No such object"}})
      else:
        self.store.put(bucket, name, data)
        self.reply(200, self.meta(bucket, name))
    elif name:
      self.one(bucket, name, query, path.startswith("/download"))
    elif path.rstrip("/").endswith("/o"):
      self.listing(bucket, query)
    else:
      self.reply(200, {"kind": "storage#bucket", "name": bucket})

  def meta(self, bucket, name):
    data, generation = self.store.objects[bucket, name]
    moment = "2026-01-01T00:00:00.000Z"
    return {
      "kind": "storage#object", "name": name, "bucket": bucket,
      "size": str(len(data)), "generation": str(generation),
      "metageneration": "1", "timeCreated": moment, "updated": moment}

  def upload(self, bucket, name, query, data):
    kind = query.get("uploadType")
    if kind == "multipart":
      mark = b"--" + re.search(
        r'boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
      description, content = (part.split(b"\r\n\r\n" if b"\r\n\r\n" in part
                                         else b"\n\n", 1)[1]
                              for part in data.split(mark)[1:3])
      name = json.loads(description)["name"]
      data = content.removesuffix(b"\n").removesuffix(b"\r")
    elif "upload_id" in query:
      upload = self.store.uploads[query["upload_id"]]
      upload[2] += data
      if self.headers.get("Content-Range", "").endswith("/*"):
        self.reply(308, Range=f"bytes=0-{len(upload[2]) - 1}")
        return
      name, query, data = upload
    elif kind == "resumable":
      number = str(len(self.store.uploads))
      name = name or json.loads(data)["name"]
      self.store.uploads[number] = [name, query, b""]
      self.reply(200, {}, Location=(
        f"{self.store.url}/upload/storage/v1/b/{bucket}/o?"
        f"uploadType=resumable&upload_id={number}"))
      return
    if self.store.put(bucket, name, data, query.get("ifGenerationMatch")):
      self.reply(200, self.meta(bucket, name))
    else:
      self.reply(412, {"error": {"code": 412, "message": "conditionNotMet"}})

  def one(self, bucket, name, query, media):
    there = self.store.objects.get((bucket, name))
    if there is None:
      self.reply(404, {"error": {"code": 404, "message": "No such object"}})
      return
    data, generation = there
    if query.get("ifGenerationMatch", str(generation)) != str(generation):
      self.reply(412, {})
    elif self.command == "DELETE":
      self.store.objects.pop((bucket, name), None)
      self.reply(204)
    elif query.get("ifGenerationNotMatch") == str(generation):
      self.reply(304)
    elif not media and query.get("alt") != "media":
      self.reply(200, self.meta(bucket, name))
    else:
      self.content(data, generation)

  def content(self, data, generation):
    more = {"x_goog_generation": str(generation),
            "x_goog_stored_content_length": str(len(data))}
    span = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
    if not span:
      self.reply(200, data, **more)
      return
    start = int(span[1]) if span[1] else len(data) - int(span[2])
    stop = min(int(span[2]) + 1 if span[1] and span[2] else len(data),
               len(data))
    if start >= len(data):
      self.reply(416)
      return
    self.reply(206, data[start:stop], **more, Content_Range=(
      f"bytes {start}-{stop - 1}/{len(data)}"))

  def listing(self, bucket, query):
    prefix, mark = query.get("prefix", ""), query.get("delimiter")
    first, last = query.get("startOffset", ""), query.get("endOffset")
    items, folders = [], {}
    for where, name in sorted(self.store.objects):
      if where != bucket or not name.startswith(prefix) or name < first or (
          last is not None and name >= last):
        continue
      end = name.find(mark, len(prefix)) if mark else -1
      if end >= 0:
        folders[name[:end + len(mark)]] = True
      else:
        with contextlib.suppress(KeyError):  # removed meanwhile
          items.append(self.meta(bucket, name))
    self.reply(200, {"kind": "storage#objects", "items": items,
                     "prefixes": list(folders)})

  def batch(self, data):
    text = ""
    for number, found in enumerate(
        re.finditer(rb"DELETE \S*/b/([^/]+)/o/([^ ?]+)", data), 1):
      key = found[1].decode(), urllib.parse.unquote(found[2].decode())
      there = self.store.objects.pop(key, None)
      text += (
        "--part\r\nContent-Type: application/http\r\nContent-ID: "
        f"<response-{number}>\r\n\r\nHTTP/1.1 "
        f"{'204 No Content' if there else '404 Not Found'}\r\n"
        "Content-Length: 0\r\n\r\n\r\n")
    self.reply(200, f"{text}--part--\r\n".encode(),
               Content_Type="multipart/mixed; boundary=part")


@contextlib.contextmanager
def used(server, bucket, monkeypatch):
  """An empty bucket, which this process uses; yields its URL."""
  for name in EMULATOR:
    monkeypatch.setenv(name, server.url)
  server.buckets.add(bucket)
  forget()
  yield f"gs://{bucket}"
  server.fault = lambda method, name: None
  forget()


def forget():
  """As a new process: no directory of a bucket has a local copy."""
  from dlrl.buckets import mirror
  from dlrl.buckets import models
  from dlrl.buckets import objects
  mirror._MIRRORS.clear()
  models._files.cache_clear()
  objects._store.cache_clear()
