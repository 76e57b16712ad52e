from __future__ import annotations

import hashlib
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from gguf.constants import GGMLQuantizationType, GGUFValueType
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal.errors import UserError
from mlx_personal.models.gguf import Precision, convert_gguf, file_hash, read_gguf
from mlx_personal.models.gguf.header import MetadataArray, read_header, read_numbers, read_strings
from tests.support.gguf_files import COMMON, TOKENS, converted_weights, random_model, write_gguf

U8, U32, STRING, ARRAY = GGUFValueType.UINT8, GGUFValueType.UINT32, GGUFValueType.STRING, GGUFValueType.ARRAY
F32, Q4_0 = GGMLQuantizationType.F32, GGMLQuantizationType.Q4_0


def text(content: str | bytes) -> bytes:
    data = content.encode() if isinstance(content, str) else content
    return struct.pack("<Q", len(data)) + data


def key(name: str | bytes, value_type: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", value_type) + value


ARCHITECTURE = key("general.architecture", STRING, text("llama"))


def tensor(name: str, shape: tuple[int, ...], tensor_type: int = F32, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, tensor_type, offset)


def header(
    keys: list[bytes] | None = None,
    tensors: list[bytes] | None = None,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    key_count: int | None = None,
    tensor_count: int | None = None,
    data_bytes: int = 256,
) -> bytes:
    keys, tensors = [ARCHITECTURE] if keys is None else keys, tensors or []
    counts = (len(tensors) if tensor_count is None else tensor_count, len(keys) if key_count is None else key_count)
    content = magic + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(tensors)
    return content + bytes(-len(content) % 32) + bytes(data_bytes)


def string_array(length: int, *contents: bytes) -> bytes:
    return struct.pack("<IQ", STRING, length) + b"".join(contents)


@pytest.fixture
def tiny_file(tmp_path: Path) -> Path:
    weights = converted_weights(random_model("llama", COMMON), "llama")
    types = {"blk.0.ffn_up.weight": Q4_0, "output.weight": GGMLQuantizationType.F16}
    extra: dict[str, Any] = {"general.file_type": 2, "a.bool": True, "a.float": 0.1, "a.text": "größer"}
    return write_gguf(tmp_path / "tiny.gguf", "llama", weights, types=types, settings=extra)


def test_the_header_is_what_the_gguf_library_reads(tiny_file: Path) -> None:
    ours, theirs = read_header(tiny_file), gguf.GGUFReader(tiny_file)
    fields = {name: field for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert set(ours.metadata) == set(fields)
    for name, field in fields.items():
        value = ours.metadata[name]
        if isinstance(value, MetadataArray):
            read = read_strings if value.element_type == STRING else read_numbers
            assert list(read(tiny_file, value)) == field.contents()
        else:
            assert value == field.contents()
    assert len(ours.tensors) == len(theirs.tensors) == 21
    for info, expected in zip(ours.tensors, theirs.tensors, strict=True):
        assert (info.name, info.type, info.offset) == (expected.name, expected.tensor_type, expected.data_offset)
        assert (info.shape, info.size_bytes) == (tuple(expected.shape.tolist()[::-1]), expected.n_bytes)


def test_a_file_says_what_it_is(tiny_file: Path) -> None:
    file = read_gguf(tiny_file)
    assert (file.name, file.architecture, file.context_length) == ("Tiny Model", "llama", 512)
    assert file.parameter_count == sum(
        weight.size for weight in converted_weights(random_model("llama", COMMON), "llama").values()
    )
    assert (file.quantization, file.main_type) == ("Q4_0", "F32")
    assert file.size_bytes == tiny_file.stat().st_size
    assert file.strings("tokenizer.ggml.tokens") == TOKENS


def test_listing_a_large_file_reads_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "large.gguf"
    path.write_bytes(header(tensors=[tensor("token_embd.weight", (4096, 1 << 20))]))
    os.truncate(path, (1 << 34) + 4096)  # sparse: 16 GiB that are not on the disk
    tracemalloc.start()
    try:
        assert read_gguf(path).parameter_count == 1 << 32
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "short": (b"GGU", "is not a GGUF file"),
    "cut in the version": (b"GGUF\3", "is cut short"),
    "wrong magic": (header(magic=b"ZZZZ"), "is not a GGUF file"),
    "older format": (header(magic=b"tjgg"), "in a format from before GGUF"),
    "version 1": (header(version=1), "is in version 1 of GGUF"),
    "version 4": (header(version=4), "is in version 4 of GGUF"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(64), "for big-endian machines"),
    "tensor count": (header(tensor_count=2**63), "it counts 9223372036854775808 tensors"),
    "tensors that are not there": (header(tensor_count=50_000, data_bytes=64), "is"),
    "key count": (header(key_count=2**63), "it counts 9223372036854775808 metadata keys"),
    "keys that are not there": (header(key_count=50_000), "is"),
    "string size": (header([struct.pack("<Q", 2**63)]), "a text of 9223372036854775808 bytes"),
    "string beyond the file": (header([key("a", STRING, struct.pack("<Q", 1 << 20))]), "is cut short"),
    "array size": (header([key("a", ARRAY, struct.pack("<IQ", U32, 2**63))]), "is cut short"),
    "array of texts": (header([key("a", ARRAY, string_array(2**63))]), "arrays of 9223372036854775808 texts"),
    "array of texts beyond the file": (header([key("a", ARRAY, string_array(1 << 20))], data_bytes=64), "is cut"),
    "size of a text in an array": (header([key("a", ARRAY, string_array(1, struct.pack("<Q", 2**63)))]), "is cut"),
    "nested array": (header([key("a", ARRAY, struct.pack("<IQ", ARRAY, 1))]), "an array of arrays"),
    "value type": (header([key("a", 77, b"")]), "of the unknown type 77"),
    "duplicate key": (header([ARCHITECTURE, ARCHITECTURE]), "the metadata key 'general.architecture' twice"),
    "key not UTF-8": (header([key(b"\xff\xfe", U8, b"\0")]), "a text that is not UTF-8"),
    "text not UTF-8": (header([key("a", STRING, text(b"\xc3("))]), "a text that is not UTF-8"),
    "alignment": (header([key("general.alignment", U32, struct.pack("<I", 3))]), "alignment"),
    "no architecture": (header([]), "has no general.architecture"),
    "architecture is a number": (header([key("general.architecture", U8, b"\1")]), "has no general.architecture"),
    "duplicate tensor": (header(tensors=[tensor("a", (4,)), tensor("a", (4,), offset=32)]), "the tensor 'a' twice"),
    "overlapping tensors": (header(tensors=[tensor("a", (16,)), tensor("b", (4,), offset=32)]), "'a' and 'b' overlap"),
    "unaligned tensor": (header(tensors=[tensor("a", (4,), offset=4)]), "not aligned"),
    "offset beyond the file": (header(tensors=[tensor("a", (4,), offset=1 << 62)]), "is cut short"),
    "offset that overflows": (header(tensors=[tensor("a", (4,), offset=2**64 - 32)]), "is cut short"),
    "size that overflows": (header(tensors=[tensor("a", (2**63, 4, 2**62))]), "is cut short"),
    "zero dimension": (header(tensors=[tensor("a", (0, 4))]), "of shape [4, 0]"),
    "no dimensions": (header(tensors=[tensor("a", ())]), "of 0 dimensions"),
    "many dimensions": (header(tensors=[tensor("a", (1,) * 9)]), "of 9 dimensions"),
    "part of a block": (header(tensors=[tensor("a", (31,), Q4_0)]), "of shape [31] in Q4_0"),
    "tensor type": (header(tensors=[tensor("a", (4,), 99)]), "of the unknown type 99"),
    "split without a part's name": (
        header([ARCHITECTURE, key("split.count", U32, struct.pack("<I", 3))]),
        "one of 3 parts",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_one_line(tmp_path: Path, case: str) -> None:
    content, message = BAD_FILES[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as caught:
            read_gguf(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and message in line and "; " in line and "\n" not in line


def test_a_file_cut_anywhere_is_one_line(tiny_file: Path, tmp_path: Path) -> None:
    content = tiny_file.read_bytes()
    path = tmp_path / "cut.gguf"
    for size in [*range(0, 200, 7), *range(200, len(content), 3001), len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"cut short or still being written|is empty|not a GGUF file"):
            read_gguf(path)


@pytest.mark.parametrize(
    "name", ["sha256-00ff-partial", "sha256-00ff-partial-0", "m.gguf.incomplete", "m.gguf.part", "m.gguf.crdownload"]
)
def test_a_file_that_is_being_downloaded_is_one_line(tiny_file: Path, name: str) -> None:
    path = tiny_file.rename(tiny_file.with_name(name))
    with pytest.raises(UserError, match="is still being downloaded; wait until"):
        read_gguf(path)


def test_what_is_no_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a file"):
        read_gguf(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        read_gguf(tmp_path / "missing.gguf")


def test_an_array_that_is_not_utf_8_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(header([ARCHITECTURE, key("a", ARRAY, string_array(2, text("x"), text(b"\xff")))]))
    with pytest.raises(UserError, match="not UTF-8"):
        read_gguf(path).strings("a")


def write_parts(folder: Path, count: int = 2) -> list[Path]:
    paths = []
    for number in range(count):
        keys = [
            key("split.no", GGUFValueType.UINT16, struct.pack("<H", number)),
            key("split.count", GGUFValueType.UINT16, struct.pack("<H", count)),
        ]
        path = folder / f"model-{number + 1:05d}-of-{count:05d}.gguf"
        path.write_bytes(header([ARCHITECTURE, *keys][0 if number == 0 else 1 :], [tensor(f"t{number}", (64,))]))
        paths.append(path)
    return paths


def test_all_parts_of_a_split_model_are_read_from_any_of_them(tmp_path: Path) -> None:
    paths = write_parts(tmp_path)
    for path in paths:
        file = read_gguf(path)
        assert file.paths == tuple(paths)
        assert [(info.name, info.path) for info in file.tensors] == [("t0", paths[0]), ("t1", paths[1])]
        assert file.size_bytes == sum(path.stat().st_size for path in paths)


def damage_missing(paths: list[Path]) -> None:
    paths[1].unlink()


def damage_swapped(paths: list[Path]) -> None:
    paths[1].write_bytes(paths[0].read_bytes())


def damage_renamed(paths: list[Path]) -> None:
    paths[0].rename(paths[0].with_name("part-one.gguf"))
    paths[0] = paths[0].with_name("part-one.gguf")


def damage_duplicate(paths: list[Path]) -> None:
    paths[1].write_bytes(paths[1].read_bytes().replace(b"t1", b"t0"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_missing, "00002-of-00002.gguf: part 2 of 2 of this model is missing; download all"),
        (damage_swapped, "is not part 2 of 2"),
        (damage_renamed, "is one of 2 parts of a model, and its name does not say which"),
        (damage_duplicate, "the tensor 't0' twice"),
    ],
)
def test_a_split_model_that_is_not_whole_is_one_line(
    tmp_path: Path, damage: Callable[[list[Path]], None], message: str
) -> None:
    paths = write_parts(tmp_path)
    damage(paths)
    with pytest.raises(UserError, match=message):
        read_gguf(paths[0])


HUB, BASE = "https://huggingface.co", "general.base_model.0.repo_url"


@pytest.mark.parametrize(
    ("name", "metadata", "repositories"),
    [
        ("X", {}, ()),
        ("X", {"general.source.huggingface.repository": "owner/model"}, ("owner/model",)),
        ("X", {"general.source.url": f"{HUB}/owner/model/tree/main"}, ("owner/model",)),
        ("X", {"general.source.repo_url": "https://example.org/owner/model"}, ()),
        ("X", {"general.source.url": "../../etc/passwd"}, ()),
        # What a quantizer names as base is the model itself; its author names what it was fine-tuned from.
        ("Tiny 7B Instruct", {BASE: f"{HUB}/owner/Tiny-7B-Instruct"}, ("owner/Tiny-7B-Instruct",)),
        ("Tiny 7B Instruct", {BASE: f"{HUB}/owner/Tiny-7B"}, ()),
    ],
)
def test_the_repository_of_the_same_model_is_found(
    tmp_path: Path, name: str, metadata: dict[str, str], repositories: tuple[str, ...]
) -> None:
    path = write_gguf(tmp_path / "model.gguf", "llama", {}, settings={"general.name": name} | metadata)
    assert read_gguf(path).repositories == repositories


def test_the_hash_is_that_of_the_whole_content(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(path.name.encode() * 1_500_000)
    (tmp_path / "both").write_bytes(paths[0].read_bytes() + paths[1].read_bytes())
    expected = hashlib.sha256(b"a" * 1_500_000 + b"b" * 1_500_000).hexdigest()
    assert file_hash([tmp_path / "both"]) == file_hash(paths) == expected


@st.composite
def mutations(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Draw a change of a file: bytes of its header overwritten, cut out or repeated, or its end cut."""
    kind = draw(st.sampled_from(["overwrite", "number", "remove", "repeat", "cut"]))
    position, length = draw(st.floats(0, 1)), draw(st.integers(1, 16))
    values = draw(st.binary(min_size=length, max_size=length))
    number = draw(st.sampled_from([0, 1, 2**16, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]))

    def mutate(content: bytes) -> bytes:
        place = int(position * (len(content) - 1))
        if kind == "overwrite":
            return content[:place] + values + content[place + length :]
        if kind == "number":
            return content[:place] + struct.pack("<Q", number) + content[place + 8 :]
        if kind == "remove":
            return content[:place] + content[place + length :]
        if kind == "repeat":
            return content[: place + length] + content[place:]
        return content[:place]

    return mutate


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, int]:
    """A file, its content, and the size of its header."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    write_gguf(path, "llama", converted_weights(random_model("llama", COMMON), "llama"))
    return path, path.read_bytes(), min(info.offset for info in read_gguf(path).tensors)


@settings(max_examples=80, deadline=2000)
@given(changes=st.lists(mutations(), min_size=1, max_size=3), is_in_header=st.booleans())
def test_a_damaged_file_is_read_or_refused_in_one_line(
    small_file: tuple[Path, bytes, int], changes: list[Callable[[bytes], bytes]], is_in_header: bool
) -> None:
    path, content, header_bytes = small_file
    front, rest = (content[:header_bytes], content[header_bytes:]) if is_in_header else (content, b"")
    for change in changes:
        front = change(front)
    path.write_bytes(front + rest)
    tracemalloc.start()
    try:
        read_gguf(path)
    except UserError as error:
        assert "\n" not in str(error)
    finally:
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()


@settings(max_examples=30, deadline=5000)
@given(changes=st.lists(mutations(), min_size=1, max_size=2))
def test_a_damaged_file_is_converted_or_refused_in_one_line(
    small_file: tuple[Path, bytes, int],
    tmp_path_factory: pytest.TempPathFactory,
    changes: list[Callable[[bytes], bytes]],
) -> None:
    path, content, header_bytes = small_file
    front = content[:header_bytes]
    for change in changes:
        front = change(front)
    # The header keeps its length where a change kept it, so that the change reaches the conversion.
    path.write_bytes(front + content[header_bytes:])
    folder = tmp_path_factory.mktemp("converted") / "model"
    try:
        convert_gguf(path, folder, precision=Precision("float32"), sha256="0")
    except UserError as error:
        assert "\n" not in str(error)
        assert not folder.exists()
    assert [entry.name for entry in folder.parent.iterdir()] in ([], ["model"])


def test_numbers_are_read_in_the_shortest_form_of_float32(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", "llama", {}, settings={"a": 1e-6, "b": 0.1, "c": float("inf")})
    file = read_gguf(path)
    assert (file.number("a"), file.number("b"), file.number("missing", 3.0)) == (1e-6, 0.1, 3.0)
    with pytest.raises(UserError, match="no finite c"):
        file.number("c")
    with pytest.raises(UserError, match="no integer as b"):
        file.integer("b")
