"""Stand-ins for object stores: fsspec's memory under gs:// and s3://, with one bucket each."""

import functools
import sys
import threading

from fsspec.implementations.memory import MemoryFileSystem

from pot_jax.media import stores

_LOCK = threading.Lock()


class Memory(MemoryFileSystem):
    """Refuses what is not in a bucket, as stores do, and makes objects on condition."""

    cachable = False
    buckets = ("bucket",)
    knows_conditions = True

    def __init__(self, *given, **how):
        super().__init__(*given, **how, global_store=False)

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("gs://").removeprefix("s3://"))

    def pipe_file(self, path, value, mode="overwrite", **how):
        self._require_bucket(path)
        with _LOCK:
            super().pipe_file(path, value, mode if self.knows_conditions else "overwrite", **how)

    def put_file(self, lpath, rpath, **how):
        self._require_bucket(rpath)
        super().put_file(lpath, rpath, **how)

    def mkdir(self, *given, **how):  # put_file asks for one
        pass

    makedirs = mkdir

    def _require_bucket(self, path):
        if self._strip_protocol(path).split("/")[1] not in self.buckets:
            raise FileNotFoundError("The specified bucket does not exist")


def install(monkeypatch, **facts) -> Memory:
    """Serves gs:// and s3:// from memory during a test; returns the store of s3://."""
    kind = type("Store", (Memory,), facts)
    for scheme in ("gs", "s3"):
        monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, scheme, kind)
    monkeypatch.setattr(stores, "_filesystem", functools.cache(stores._filesystem.__wrapped__))
    return stores._filesystem("s3")
