"""Input files: which ones a path names, what they hold, and how their bytes are read."""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Any, cast

from tamis.errors import DataError, TamisError

FORMATS = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
BUFFER_BYTES = 1 << 20
_KNOWN = f"{', '.join(FORMATS)}, and the text ones with {' or '.join(COMPRESSIONS)} after it"


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file to ingest: its path or URL, the kind of its rows and how it is compressed."""

    url: str
    format: str
    compression: str | None

    @property
    def name(self) -> str:
        """The base name, as it stands in `origin`."""
        return self.url.rstrip("/").rsplit("/", 1)[-1].rsplit(os.sep, 1)[-1]


def input_file(url: str) -> InputFile | None:
    """The file of this name by its suffixes, or None when they are not known."""
    stem, suffix = os.path.splitext(url)
    compression = COMPRESSIONS.get(suffix.lower())
    if compression:
        suffix = os.path.splitext(stem)[1]
    kind = FORMATS.get(suffix.lower())
    if kind is None or (compression and kind == "parquet"):
        return None
    return InputFile(url, kind, compression)


def expand(paths: Sequence[str]) -> list[InputFile]:
    """The files that `paths` name, in order and each once.

    A path is a file, a folder (all files of known suffixes below it, sorted, none hidden), a glob
    (`**` too), or an fsspec URL of any of these. Raises `DataError` naming the path that matches
    nothing, or a file of unknown suffix that was given by name.
    """
    found = [file for path in paths for file in _expand_one(os.path.expanduser(path))]
    if not found:
        raise DataError("no input path was given; name a file, a folder, a glob or an fsspec URL")
    return list(dict.fromkeys(found))


def _expand_one(path: str) -> list[InputFile]:
    names, by_name = _remote_names(path) if "://" in path else _local_names(path)
    if not names:
        raise DataError(
            f"{path} matches no file; give a file, a folder, a glob or an fsspec URL that exists"
        )
    known = [file for file in map(input_file, names) if file is not None]
    if not known and by_name:
        raise DataError(f"{path} has a suffix that is not known; expected {_KNOWN}")
    if not known:
        raise DataError(f"{path} holds {len(names)} files, none of a known kind: {_KNOWN}")
    return known


def _local_names(path: str) -> tuple[list[str], bool]:
    """Files below or matching a local path, and whether it named one file."""
    if os.path.isfile(path):
        return [path], True
    hits = [path] if os.path.isdir(path) else sorted(glob.glob(path, recursive=True))
    names: list[str] = []
    for hit in hits:
        if os.path.isfile(hit):
            names.append(hit)
        else:
            below = (os.path.join(top, kid) for top, _, kids in os.walk(hit) for kid in kids)
            names += sorted(name for name in below if not _hidden(name, hit))
    return names, False


def _hidden(name: str, folder: str) -> bool:
    """Whether a file or a folder on the way to it begins with a dot: caches, version control."""
    return "/." in name.removeprefix(folder).replace(os.sep, "/")


def _remote_names(url: str) -> tuple[list[str], bool]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
        if system.isfile(path):
            return [url], True
        hits = [path] if system.isdir(path) else sorted(system.glob(path))
        names = [n for hit in hits for n in sorted(system.find(hit)) if not _hidden(n, hit)]
        return [system.unstrip_protocol(name) for name in names], False
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{url} cannot be opened: {_words(error)}") from error


@contextmanager
def open_raw(file: InputFile) -> Iterator[IO[bytes]]:
    """The stored bytes of a file, compressed as they are."""
    with ExitStack() as stack:
        try:
            if "://" in file.url:
                import fsspec

                system, path = fsspec.core.url_to_fs(file.url)
                stream = stack.enter_context(system.open(path, "rb"))
            else:
                stream = stack.enter_context(open(file.url, "rb", buffering=BUFFER_BYTES))
        except OSError as error:
            raise DataError(f"{file.url} cannot be opened: {_words(error)}") from error
        yield stream


@contextmanager
def open_text(file: InputFile, offset: int = 0) -> Iterator[io.BufferedReader]:
    """The uncompressed bytes of a file from `offset` on.

    Damage to the compression is a `DataError` that names the file. A compressed file is unpacked
    up to `offset` again, since it cannot be entered in the middle.
    """
    with open_raw(file) as raw:
        stream = _unpacked(raw, file.compression)
        with naming(file):
            if file.compression is None:
                stream.seek(offset)
            else:
                while offset > 0 and (skipped := len(stream.read(min(offset, BUFFER_BYTES)))):
                    offset -= skipped
            yield stream


def _unpacked(raw: IO[bytes], compression: str | None) -> io.BufferedReader:
    if compression == "gzip":
        return io.BufferedReader(gzip.GzipFile(fileobj=raw), BUFFER_BYTES)
    if compression == "zstd":
        return io.BufferedReader(_Zstd(raw), BUFFER_BYTES)
    if isinstance(raw, io.BufferedReader):
        return raw
    return io.BufferedReader(cast(Any, raw), BUFFER_BYTES)


class _Zstd(io.RawIOBase):
    """zstd frames, unpacked; unlike the package's own reader it notices a truncated file."""

    def __init__(self, raw: IO[bytes]):
        import zstandard

        self._raw = raw
        self._context = zstandard.ZstdDecompressor()
        self._frame: Any = self._context.decompressobj()
        self._fed = False  # whether the present frame has had any bytes
        self._packed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            if not self._packed:
                self._packed = self._raw.read(BUFFER_BYTES // 8)
            if not self._packed:
                if self._fed:
                    raise EOFError("the last zstd frame is not complete")
                return 0
            self._ready = memoryview(self._frame.decompress(self._packed))
            self._packed, self._fed = b"", True
            if self._frame.eof:
                self._packed, self._fed = self._frame.unused_data, False
                self._frame = self._context.decompressobj()
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


@contextmanager
def naming(file: InputFile) -> Iterator[None]:
    """Turn what goes wrong while reading into one line that names the file."""
    import zstandard

    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise DataError(
            f"{file.url} is truncated or damaged: {_words(error)}; fetch it again"
        ) from error
    except OSError as error:
        raise TamisError(f"{file.url} cannot be read: {_words(error)}; run again") from error


def sha256_and_bytes(file: InputFile) -> tuple[str, int]:
    """The sha256 of the stored bytes in hex, and how many they are. Raises for an empty file."""
    digest, total = hashlib.sha256(), 0
    with open_raw(file) as stream, naming(file):
        while block := stream.read(BUFFER_BYTES):
            digest.update(block)
            total += len(block)
    if total == 0:
        raise DataError(f"{file.url} is empty; expected at least one row")
    return digest.hexdigest(), total


def _words(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or " ".join(str(error).split())
    return text or type(error).__name__
