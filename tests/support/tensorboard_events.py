"""The events that TensorBoard reads in a workdir."""

import struct


def read(root):
  """Yields the events of all files, in order."""
  from tensorboardX.proto import event_pb2

  for path in sorted((root / "tensorboard").iterdir()):
    data = path.read_bytes()
    while data:  # length, its checksum, payload, its checksum
      (size,) = struct.unpack("<Q", data[:8])
      yield event_pb2.Event.FromString(data[12:12 + size])
      data = data[16 + size:]
