"""Random input of every kind and checks of it, shared by the tests and benchmarks/fuzz.py.

A kind is a strategy and a check. A check gives "fine" or "refused"; anything else is a fault.
"""

import contextlib
import io
import json
import os
import random
import socket
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest import mock

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from absl import logging
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from ssl_jax.core.errors import UserError
from ssl_jax.data import decode, files, reader, records
from ssl_jax.data.sources import held_out, open_source
from ssl_jax.data.text import open_tokenizer
from ssl_jax.run import flags
from ssl_jax.run.configs import configured, override
from ssl_jax.run.experiment import Experiment
from ssl_jax.training.workdir import flatten

MOST_PIXELS = 1 << 22  # in place of decode.MAX_PIXELS: what is allowed there takes seconds


@dataclass(frozen=True)
class Kind:
    """Kind of input: a strategy that draws it and a check of it."""

    draws: st.SearchStrategy
    check: Callable[..., str]


@contextlib.contextmanager
def sandbox() -> Iterator[Path]:
    """Enter an empty folder, also as home and for caches; disable network, waiting and logs."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    before, level = Path.cwd(), logging.get_verbosity()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fuzz_")))
        inner = folder / "a" / "b" / "c"
        inner.mkdir(parents=True)
        env = {"HOME": str(folder), "SSL_JAX_CACHE": str(folder / "cache"), "NO_GCE_CHECK": "true"}
        stack.enter_context(mock.patch.dict(os.environ, env))
        stack.enter_context(mock.patch.object(socket.socket, "connect", refuse))
        stack.enter_context(mock.patch.object(socket, "getaddrinfo", refuse))
        stack.enter_context(mock.patch.object(files, "STORES", "memory"))
        stack.enter_context(mock.patch.object(reader, "_FIRST_WAIT", 0))
        stack.enter_context(mock.patch.object(decode, "MAX_PIXELS", MOST_PIXELS))
        stack.callback(logging.set_verbosity, level)
        stack.callback(os.chdir, before)
        logging.set_verbosity(logging.FATAL)
        os.chdir(inner)
        furnish()
        yield inner


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Let a `UserError` pass if it is one line."""
    try:
        yield
    except UserError as e:
        assert len(str(e).splitlines()) == 1 and str(e).isprintable(), repr(str(e))
        raise


# Files


@st.composite
def damaged(draw: st.DrawFn, wholes: list[bytes]) -> bytes:
    """Draw one of `wholes`, cut, with other bytes, or with parts of another."""
    data = bytearray(draw(st.sampled_from(wholes)))
    places = random.Random(draw(st.integers(0, 2**32)))  # Hypothesis would take both ends mostly
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        at = places.randint(0, len(data) if places.random() < 0.8 else min(64, len(data)))
        what = draw(st.sampled_from(["flip", "cut", "set", "drop", "insert", "splice"]))
        length = draw(st.sampled_from([1, 1, 2, 2, 4, 8, 30]))
        if what == "cut":
            del data[at:]
        elif what == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "set":
            value = draw(st.sampled_from([b"\0", b"\xff", b"\x7f", b"\x80", b"9", b"\xff\0", b"/"]))
            data[at : at + length] = (value * length)[:length]
        elif what == "drop":
            del data[at : at + length]
        elif what == "insert":
            data[at:at] = draw(st.binary(max_size=16))
        elif what == "splice":
            other = draw(st.sampled_from(wholes))
            start = draw(st.integers(0, len(other)))
            data[at : at + length] = other[start : start + length]
    return bytes(data)


def picture(seed: int = 0, mode: str = "RGB", size: tuple[int, int] = (24, 16)) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 4), dtype=np.uint8)
    return Image.fromarray(coarse, "RGBA").resize(size).convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@cache
def images() -> list[bytes]:
    """Return small files of every supported format, with unusual features."""
    turned = Image.Exif()
    turned[0x0112] = 6
    wide = Image.fromarray(np.arange(384, dtype=np.uint16).reshape(16, 24) * 170)
    more = {"save_all": True, "append_images": [picture(1), picture(2)]}
    files = [
        encoded(picture(), "JPEG"),
        encoded(picture(), "JPEG", progressive=True, exif=turned),
        encoded(picture(mode="L"), "JPEG", restart_marker_blocks=1),
        encoded(picture(mode="CMYK"), "JPEG"),
        encoded(picture(), "PNG", exif=turned),
        encoded(picture(mode="RGBA"), "PNG"),
        encoded(picture(mode="P"), "PNG", transparency=3),
        encoded(picture(mode="1"), "PNG"),
        encoded(wide, "PNG"),
        encoded(picture(mode="P"), "GIF", transparency=1),
        encoded(picture(), "GIF", **more),
        encoded(picture(mode="RGBA"), "WEBP", lossless=True),
        encoded(picture(), "WEBP", exif=turned),
        encoded(picture(), "WEBP", **more),
        encoded(picture(), "BMP"),
        encoded(picture(mode="P"), "BMP"),
        encoded(picture(mode="L"), "PPM"),
        b"P3 2 1 255 1 2 3 4 5 6\n",
        encoded(wide, "TIFF"),
    ]
    return files + [
        encoded(picture(), "TIFF", compression=c)
        for c in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
    ]


def check_image(data: bytes) -> str:
    outcome = "refused"
    for channels, room in ((3, None), (1, lambda height, width: 2.0)):
        with contextlib.suppress(decode.DecodeError):
            pixels = decode.decode(data, channels, room)
            assert pixels.dtype == np.uint8 and pixels.ndim == 3, (pixels.dtype, pixels.shape)
            assert pixels.shape[2] == channels and 0 < pixels.size <= channels * MOST_PIXELS
            outcome = "fine"
    return outcome


@cache
def parquets() -> list[bytes]:
    def file(columns: dict, **options: object) -> bytes:
        out = io.BytesIO()
        pq.write_table(pa.table(columns), out, **options)
        return out.getvalue()

    some = images()[:6]
    texts = ["a", "b", None, "", "c d", "é"]
    nested = [{"bytes": b, "path": f"../{i}.jpg"} for i, b in enumerate(some)]
    return [
        file({"image": some, "label": list(range(6)), "text": texts}, compression="none"),
        file({"image": nested, "label": texts, "file_name": texts}, row_group_size=2),
        file({"image": some, "captions": [["a", "b"], [], None] * 2}, compression="zstd"),
        file({"image": some}, compression="gzip", data_page_version="2.0", use_dictionary=False),
    ]


@cache
def tars() -> list[bytes]:
    def file(form: int) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as archive:
            for i, data in enumerate(images()[:4]):
                side = {"json": b'{"label": 3, "text": ["a"]}', "cls": b"1", "txt": b"x y"}
                for name, content in {"jpg": data, **side}.items():
                    member = tarfile.TarInfo(f"{'é' * 60 if i == 1 else 'd'}/{i}.{name}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
            link = tarfile.TarInfo("link.jpg")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
        return out.getvalue()

    return [file(form) for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]


@cache
def npzs() -> list[bytes]:
    files = []
    for save in (np.savez, np.savez_compressed):
        out = io.BytesIO()
        pixels = np.arange(5 * 4 * 4 * 3, dtype=np.uint8).reshape(5, 4, 4, 3)
        save(out, images=pixels, labels=np.arange(5))
        files.append(out.getvalue())
    return files


@cache
def array_records() -> list[bytes]:
    files = []
    for options in ("group_size:1", "group_size:4,uncompressed"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.array_record"
            writer = ArrayRecordWriter(str(path), options)
            for i, data in enumerate(images()[:5]):
                writer.write(records.encode(records.Record(data, i, ("a", "b"), f"{i}.jpg")))
            writer.close()
            files.append(path.read_bytes())
    return files


def furnish() -> None:
    """Write one data set of each kind to the current folder."""
    Path("d").mkdir()
    Path("d", "1.png").write_bytes(images()[4])
    Path("x.jpg").write_bytes(images()[0])
    sets = {"npz": npzs, "tar": tars, "parquet": parquets, "array_record": array_records}
    for scheme, examples in sets.items():
        Path(f"y.{scheme}").write_bytes(examples()[0])


def check_file(scheme: str, data: bytes) -> str:
    path = Path(f"x.{'npz' if scheme == 'npz' else scheme}")
    path.write_bytes(data)
    return check_source(f"{scheme}:{path}")


def check_source(spec: str) -> str:
    """Open a data set and read all of it; corrupt images may be counted."""
    try:
        with one_line():
            source = open_source(spec)
            assert len(source) > 0
            images = reader.Reader(source, max_bad_fraction=1.0)
            for index in range(min(len(source), 20)):
                pixels = images.try_pixels(index)
                assert pixels is None or (pixels.dtype == np.uint8 and pixels.ndim == 3)
                source.describe(index)
            for each in (source.labels, source.captions, source.names):
                assert each is None or len(each) == len(source)
            if source.labels is not None:
                assert source.labels.min() >= -1 and source.labels.max() < source.num_classes
            for texts in source.captions or ():
                assert all(isinstance(text, str) for text in texts), texts
            source.fingerprint()
            held_out(spec)
            return "fine" if not images.bad else "counted"
    except UserError:
        return "refused"


# Texts

WORDS = st.text(max_size=12) | st.sampled_from(
    ["..", "/", "~", "~root", "~nobody1", "*", "**", "[z-a]", "\0", "\ud800", "a" * 5000, "x.jpg"]
)


def check_list(text: str) -> str:
    Path("list.txt").write_bytes(text.encode("utf-8", "surrogatepass"))
    return check_source("folder:list.txt")


def check_captions(text: str) -> str:
    folder = Path("pictures")
    folder.mkdir(exist_ok=True)
    (folder / "a.jpg").write_bytes(images()[0])
    (folder / "captions.jsonl").write_bytes(text.encode("utf-8", "surrogatepass"))
    outcome = check_source("folder:pictures")
    if outcome == "fine":
        captions = open_source("folder:pictures").captions
        open_tokenizer("").caption_tokens(captions, np.zeros(2, np.int32), 8, 0, 0)
    return outcome


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=6,
)
LINKS = st.sampled_from(["x", "./x", "d/../x", "../x", "/x", "d/x"])
DEEP = st.sampled_from(["[" * 100_000, '{"a":' * 100_000, "-" * 9000 + "1", "9" * 5000])
LINES = st.lists(
    WORDS
    | DEEP
    | st.builds(lambda name, end: f"{name}.jpg {end}", WORDS | LINKS, WORDS)
    | st.builds("{}.jpg {}".format, LINKS, st.sampled_from(["", "1", "-1", "2", "cat", "9" * 25]))
    | JSON.map(json.dumps)
    | st.builds(lambda name, text: json.dumps({"file_name": name, "text": text}), WORDS, JSON)
    | JSON.map(lambda text: json.dumps({"file_name": "a.jpg", "captions": text})),
    max_size=4,
).map("\n".join)


@cache
def tokenizer_file() -> bytes:
    tokenizer = open_tokenizer("train:300", [("some words", "more words of a caption"), ("words",)])
    return tokenizer.json.encode()


def check_tokenizer(data: bytes) -> str:
    Path("tokenizer.json").write_bytes(data)
    try:
        with one_line():
            tokenizer = open_tokenizer("tokenizer.json")
            for text in ("words of a caption \ud800", "", "é"):
                tokens = tokenizer.tokens(text, 8)
                assert (
                    tokens.shape == (8,)
                    and 0 <= tokens.min() <= tokens.max() < tokenizer.vocabulary
                )
        return "fine"
    except UserError:
        return "refused"


SCHEMES = ["array_record", "digits", "folder", "frames", "mix", "npz", "parquet", "tar", "tfds"]
STORED = ("array_record", "npz", "parquet", "tar")
THERE = st.sampled_from(
    ["digits", "folder:d", "folder:.", "folder:x.jpg", "frames:d", "tar:.", "tar:y.tar#d"]
    + [f"{scheme}:y.{end}" for scheme in STORED for end in ("*", scheme, "tar")]
)
NAMES = st.lists(WORDS | st.sampled_from(["://", ":", "#", "+", "memory://x", "2*"]), max_size=4)
DATA = st.recursive(
    st.builds(lambda s, parts: f"{s}:{''.join(parts)}", st.sampled_from(SCHEMES) | WORDS, NAMES)
    | WORDS
    | THERE
    | THERE,
    lambda spec: (
        st.builds("mix:{}*{}+{}*{}".format, WORDS, spec, st.floats(), spec)
        | st.builds("mix:{}*{}+{}*{}".format, st.floats(0.1, 9), spec, st.floats(0.1, 9), spec)
        | st.builds("mix:{}+{}".format, spec, spec)
    ),
    max_leaves=3,
).filter(lambda text: _stays_inside(text))


def _stays_inside(text: str) -> bool:
    """Tell whether no path leads out of the sandbox; reading the whole machine takes long."""
    return ".." not in text and "/" not in text.replace("://", "") and "~root" not in text


def check_data(text: str) -> str:
    return check_source(text)


@cache
def values_there() -> dict[str, str]:
    """Return every key of a config and its value."""
    flat = flatten(Experiment.from_config(configured("simclr:digits", [])).resolved())
    return {key: repr(value) for key, value in flat.items() if not key.startswith("spec")}


ODD = "1e999 nan -1 0 0.0 1 2 3 1e-9 -0.5 1e30 2147483648 true none () {} {1:2} b'x' ... 1j (1,)*9"
VALUES = st.one_of(
    WORDS, DEEP, JSON.map(repr), JSON.map(json.dumps), st.integers().map(str), st.floats().map(repr)
)
VALUES |= st.sampled_from([*ODD.split(), "{[]: 1}", "99999999999999999999", "(0, 1)", "[1, 2, 3]"])


@st.composite
def overrides(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Draw some keys, most of them valid, with values of any kind."""
    keys = st.sampled_from(list(values_there()))
    like = st.sampled_from(sorted(set(values_there().values())) + ODD.split())
    if draw(st.integers(0, 3)):
        return draw(st.lists(st.tuples(keys, like), min_size=1, max_size=2))
    key = keys | st.builds(lambda k, cut: k.rpartition(".")[0] + cut, keys, WORDS) | WORDS
    key |= st.builds("{}.{}".format, keys, WORDS)
    return draw(st.lists(st.tuples(key, VALUES), min_size=1, max_size=3))


def check_override(pairs: list[tuple[str, str]], shapes: bool = False) -> str:
    """Check overrides; with `shapes` up to the point where the step would be compiled."""
    words = ["train", *(f"--config.{key}={value}" for key, value in pairs)]
    try:
        with one_line():
            parsed = flags.parse(words, "", flags.ConfigFlags).overrides
            config = configured("simclr:digits", [])
            override(config, parsed)
            experiment = Experiment.from_config(config)
            json.loads(json.dumps(experiment.resolved()))
            if shapes:
                assert experiment.abstract_state.step.shape == ()
        return "fine"
    except UserError:
        return "refused"


@cache
def kinds() -> dict[str, Kind]:
    def of(scheme: str, wholes: list[bytes]) -> Kind:
        return Kind(damaged(wholes), lambda data: check_file(scheme, data))

    return {
        "image": Kind(damaged(images()), check_image),
        "parquet": of("parquet", parquets()),
        "tar": of("tar", tars()),
        "npz": of("npz", npzs()),
        "array_record": of("array_record", array_records()),
        "list": Kind(LINES, check_list),
        "captions": Kind(LINES, check_captions),
        "tokenizer": Kind(damaged([tokenizer_file()]), check_tokenizer),
        "data": Kind(DATA, check_data),
        "config": Kind(overrides(), check_override),
    }
