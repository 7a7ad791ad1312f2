"""Reading a layer once: its digests, what is refused before anything is published, and the threads that do it."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import random
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.errors import ImageError
from sandbox.images import layer_stream
from sandbox.images.compression import Readable, zstd_module
from sandbox.images.layer_stream import NOTHING_EXPECTED, Expected, LayerDigests, LayerStream
from tests.unit.sandbox.images.tars import END, directory, file, header, tar

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "zstd": zstd_module("tests").compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
every_form = pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=COMPRESSIONS.keys())
compressed = pytest.mark.parametrize(
    "compress", list(COMPRESSIONS.values())[1:], ids=list(COMPRESSIONS.keys())[1:]
)
CONTENT = random.Random(1).randbytes(600_000) + bytes(6_000_000)
TAR = tar(directory(b"d"), file(b"d/f", CONTENT), file(b"g", b"end"))


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def digest(data: bytes) -> str:
    return f"sha256:{sha256(data).hexdigest()}"


def facts(blob: bytes, plain: bytes) -> LayerDigests:
    return LayerDigests(digest=digest(blob), size=len(blob), diff_id=digest(plain))


def expected(blob: bytes, plain: bytes) -> Expected:
    return Expected(digest=digest(blob), size=len(blob), diff_id=digest(plain))


def read(blob: Readable, wanted: Expected = NOTHING_EXPECTED) -> tuple[list[bytes], LayerDigests | None]:
    """Read the layer *blob*; return the names of its members, and its digests."""
    with LayerStream(blob, "oci:here", wanted) as layer:
        names = [member.name for member in layer.open_archive()]
        return names, layer.finish()


def refused(blob: Readable, wanted: Expected = NOTHING_EXPECTED) -> str:
    with pytest.raises(ImageError) as caught:
        read(blob, wanted)
    assert caught.value.hint
    assert caught.value.message.startswith("oci:here: " + (f"{wanted.digest}: " if wanted.digest else ""))
    return caught.value.message


class Counting(io.BytesIO):
    """A file that counts the bytes that were read of it, at most `most` at once."""

    count = 0
    most = 1 << 30

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(min(size or 0, self.most))
        self.count += len(data)
        return data


# Digests


@every_form
def test_a_layer_has_the_digests_of_its_blob_and_of_its_tar(compress: Callable[[bytes], bytes]) -> None:
    blob = compress(TAR)
    assert read(io.BytesIO(blob)) == ([b"d", b"d/f", b"g"], facts(blob, TAR))
    assert read(io.BytesIO(blob), expected(blob, TAR))[1] == facts(blob, TAR)


@every_form
def test_what_follows_the_end_of_the_tar_counts_for_its_digest(compress: Callable[[bytes], bytes]) -> None:
    for rest in (bytes(10240), b"not zero" * 1000, bytes(5_000_000) + b"x"):
        plain = tar(file(b"f", b"x")) + rest
        blob = compress(plain)
        assert read(io.BytesIO(blob), expected(blob, plain))[1] == facts(blob, plain)


def test_zeros_after_the_compressed_data_count_for_the_digest_of_the_blob_alone() -> None:
    blob = gzip.compress(TAR) + bytes(1000)
    assert read(io.BytesIO(blob), expected(blob, TAR))[1] == facts(blob, TAR)


def test_several_frames_are_one_tar() -> None:
    blob = b"".join(gzip.compress(TAR[at : at + 70_000]) for at in range(0, len(TAR), 70_000))
    assert read(io.BytesIO(blob))[1] == facts(blob, TAR)


def test_the_content_of_the_members_is_that_of_the_tar() -> None:
    with LayerStream(io.BytesIO(gzip.compress(TAR)), "oci:here") as layer:
        archive = layer.open_archive()
        found = {member.name: b"".join(bytes(piece) for _, piece in archive.data()) for member in archive}
        layer.finish()
    assert found == {b"d": b"", b"d/f": CONTENT, b"g": b"end"}


@every_form
def test_a_blob_that_gives_little_at_a_time_is_read_to_its_end(compress: Callable[[bytes], bytes]) -> None:
    plain = tar(file(b"f", random.Random(0).randbytes(30_000)))
    blob = compress(plain)
    dripping = Counting(blob)
    dripping.most = 100
    assert read(dripping, expected(blob, plain))[1] == facts(blob, plain)


def test_the_digests_of_an_archive_before_an_endless_hole_are_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layer_stream, "MAX_REST", 1 << 22)
    blob = Counting(TAR + bytes(100 << 20))
    names, found = read(blob)
    assert (len(names), found) == (3, None)
    assert blob.count < 40 << 20


def test_a_layer_before_an_endless_hole_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_stream, "MAX_REST", 1 << 22)
    plain = TAR + bytes(100 << 20)
    message = refused(io.BytesIO(plain), expected(plain, plain))
    assert message.endswith("more than 4 MiB follow the end of the archive")


# Layers that are not what they should be


@every_form
def test_a_blob_with_another_digest_is_refused(compress: Callable[[bytes], bytes]) -> None:
    blob, other = compress(TAR), compress(TAR.replace(b"end", b"END"))
    message = refused(io.BytesIO(other), Expected(digest=digest(blob)))
    assert message == f"oci:here: {digest(blob)}: has another digest, {digest(other)}"


@compressed
def test_a_tar_with_another_diff_id_is_refused(compress: Callable[[bytes], bytes]) -> None:
    blob = compress(TAR)
    message = refused(io.BytesIO(blob), Expected(digest=digest(blob), diff_id=digest(b"other")))
    assert f"has the diff id {digest(TAR)}, not the {digest(b'other')}" in message


@every_form
def test_a_blob_that_is_too_short_is_refused(compress: Callable[[bytes], bytes]) -> None:
    blob = compress(TAR)
    message = refused(io.BytesIO(blob), Expected(digest=digest(blob), size=len(blob) + 1))
    assert message.endswith(f": has {len(blob)} bytes, not the {len(blob) + 1} that the manifest states")


@every_form
def test_a_blob_that_is_too_long_is_refused_before_it_is_read(compress: Callable[[bytes], bytes]) -> None:
    blob = compress(TAR)
    source = Counting(blob + b"x" * (100 << 20))
    message = refused(source, Expected(digest=digest(blob), size=len(blob)))
    assert "more than the" in message or "damaged" in message
    assert source.count < len(blob) + (4 << 20)


@settings(max_examples=150, deadline=None)
@given(
    compress=st.sampled_from(list(COMPRESSIONS.values())),
    cut=st.none() | st.integers(0, 3000),
    change=st.tuples(st.integers(0, 3000), st.integers(1, 255)),
    more=st.binary(max_size=3),
)
def test_no_changed_blob_passes(
    compress: Callable[[bytes], bytes], cut: int | None, change: tuple[int, int], more: bytes
) -> None:
    plain = tar(file(b"f", random.Random(0).randbytes(2000)), directory(b"d"))
    blob = compress(plain)
    changed = bytearray(blob)
    changed[change[0] % len(blob)] ^= change[1]
    for other in (bytes(changed) + more, blob[: cut if cut is None else cut % len(blob)] + more):
        for wanted in (expected(blob, plain), Expected(digest=digest(blob))):
            if other != blob:
                refused(io.BytesIO(other), wanted)
            else:
                assert read(io.BytesIO(other), wanted)[1] == facts(blob, plain)


@every_form
def test_a_blob_that_is_no_archive_is_refused(compress: Callable[[bytes], bytes]) -> None:
    garbage = compress(random.Random(2).randbytes(100_000))
    assert "not a tar archive" in refused(io.BytesIO(garbage), Expected(digest=digest(garbage)))
    assert "the file is empty" in refused(io.BytesIO(b""), Expected(digest=digest(b"")))


@pytest.mark.parametrize(
    "stated",
    [
        "sha512:" + "0" * 128,
        "sha256:",
        "sha256:" + "0" * 63,
        "sha256:" + "A" * 64,
        "sha256:../../x",
        "md5:\x1b[2J",
    ],
)
def test_a_digest_that_cannot_be_verified_is_refused(stated: str) -> None:
    for wanted in (Expected(digest=stated), Expected(diff_id=stated)):
        with pytest.raises(ImageError, match="is no digest that can be verified") as caught:
            LayerStream(io.BytesIO(TAR), "oci:here", wanted)
        assert caught.value.message.isprintable()
        assert caught.value.hint


@compressed
def test_a_bomb_is_refused_before_it_has_been_read(
    compress: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_stream, "FREE_EXPANSION", 1 << 24)
    frames = Counting(compress(header(b"f", size=1 << 40)) + compress(bytes(1 << 24)) * 100)
    frames.most = 256
    message = refused(frames)
    assert message.endswith(", as those of a decompression bomb do")
    assert frames.count < len(frames.getvalue()) // 2


def test_large_files_of_zeros_are_no_bomb() -> None:
    plain = tar(file(b"f", bytes(60 << 20)))
    blob = gzip.compress(plain, 1)
    assert len(plain) > layer_stream.EXPANSION * len(blob)
    assert read(io.BytesIO(blob))[1] == facts(blob, plain)


def test_a_plain_archive_is_never_a_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_stream, "FREE_EXPANSION", 0)
    monkeypatch.setattr(layer_stream, "EXPANSION", 0)
    assert read(io.BytesIO(TAR))[1] == facts(TAR, TAR)


# Threads


@every_form
@pytest.mark.parametrize("members", [0, 1, 2])
def test_a_layer_that_is_left_early_ends_its_threads(
    compress: Callable[[bytes], bytes], members: int
) -> None:
    blob = compress(tar(file(b"a", b"x"), file(b"b", bytes(24 << 20)), file(b"c")))
    with LayerStream(io.BytesIO(blob), "oci:here") as layer:
        archive = iter(layer.open_archive())
        for _ in range(members):
            next(archive)
    layer.close()


def test_an_error_of_the_source_is_raised_as_it_is() -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() >= 1 << 20:
                raise OSError(errno.EIO, os.strerror(errno.EIO), "blob")
            return super().read(size)

    for compress in COMPRESSIONS.values():
        source = Failing(compress(tar(file(b"f", random.Random(0).randbytes(2 << 20)))))
        with pytest.raises(OSError, match="Input/output error") as caught:
            read(source)
        assert (caught.value.errno, caught.value.filename) == (errno.EIO, "blob")


def test_an_error_of_the_digests_is_raised_and_hangs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def update(self, data: bytes) -> None:
            raise MemoryError

        def hexdigest(self) -> str:
            return "0" * 64

    monkeypatch.setattr(layer_stream, "new_sha256", Failing)
    for blob in (TAR, gzip.compress(TAR), gzip.compress(tar(file(b"f")))):
        with pytest.raises(MemoryError):
            read(io.BytesIO(blob))


def test_a_thread_that_cannot_start_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    assert refused(io.BytesIO(TAR)) == "oci:here: can't start new thread"


def test_a_process_may_fork_before_the_members_are_read() -> None:
    blob = gzip.compress(TAR)
    with LayerStream(io.BytesIO(blob), "oci:here", expected(blob, TAR)) as layer:
        archive = layer.open_archive()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for _ in archive:
                    pass
                status = 0 if layer.finish() == facts(blob, TAR) else 2
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0


def test_what_waits_in_memory_is_bounded() -> None:
    source = Counting(tar(file(b"a"), file(b"f", bytes(100 << 20)), END))
    with LayerStream(source, "oci:here") as layer:
        members = iter(layer.open_archive())
        next(members)
        for thread in layer._threads:
            thread.join(0.2)  # time to read too much
        assert source.count < 16 << 20
