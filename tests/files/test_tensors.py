from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from culet.errors import CheckpointError, InputError
from culet.files.tensors import new_tensors, read_tensors, write_tensors

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([1.5, -2.5], dtype=np.float32),
}


def file_of(path: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(shape: list[object], start: object, stop: object, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def test_what_is_written_the_safetensors_package_reads(tmp_path: Path) -> None:
    write_tensors(tmp_path / "m.safetensors", ARRAYS)
    theirs = safetensors.torch.load_file(tmp_path / "m.safetensors")
    assert set(theirs) == {"a", "b"}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(theirs[name].numpy(), array)
    with safetensors.safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_the_safetensors_package_writes_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"x": torch.randn(3, 5).to(dtype), "empty": torch.zeros(0, 4, dtype=dtype)}
    safetensors.torch.save_file(tensors, tmp_path / "m.safetensors")
    ours = read_tensors(tmp_path / "m.safetensors")
    assert ours["x"].shape == (3, 5)
    np.testing.assert_array_equal(ours["x"].float32(), tensors["x"].float().numpy())
    assert ours["empty"].float32().shape == (0, 4)


def test_a_round_trip_keeps_every_bit_of_float32(tmp_path: Path) -> None:
    odd = np.array([0.0, -0.0, 1e-45, -1e-45, np.inf, -np.inf, 3.4e38], dtype=np.float32)
    write_tensors(tmp_path / "m.safetensors", {"odd": odd, "turned": ARRAYS["a"].T})
    back = read_tensors(tmp_path / "m.safetensors")
    assert back["odd"].float32().tobytes() == odd.tobytes()
    np.testing.assert_array_equal(back["turned"].float32(), ARRAYS["a"].T)
    assert not back["odd"].float32().flags.writeable  # a view of the file


BITS = st.integers(0, 2**32 - 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(BITS, min_size=1, max_size=64))
@example([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF])  # two ties, just above, just below
@example([0x7F7FFFFF, 0xFF7FFFFF])  # the largest float32 becomes infinite
@example([0x00000001, 0x00008000, 0x80008001, 0x00018000])  # subnormal
def test_bfloat16_rounds_as_torch_does(tmp_path: Path, bits: list[int]) -> None:
    values = np.array(bits, dtype=np.uint32).view(np.float32)
    write_tensors(tmp_path / "m.safetensors", {"x": values}, dtype="bfloat16")
    back = read_tensors(tmp_path / "m.safetensors")["x"].float32()
    expected = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    real = ~np.isnan(values)
    np.testing.assert_array_equal(back[real].view(np.uint32), expected[real].view(np.uint32))
    assert np.isnan(back[~real]).all()


def test_ties_go_to_the_even_neighbour(tmp_path: Path) -> None:
    # between 1 and 1 + 1/128, and between 1 + 1/128 and 1 + 2/128
    values = np.array([1 + 1 / 256, 1 + 3 / 256], dtype=np.float32)
    write_tensors(tmp_path / "m.safetensors", {"x": values}, dtype="bfloat16")
    back = read_tensors(tmp_path / "m.safetensors")["x"].float32()
    assert back.tolist() == [1.0, 1 + 2 / 128]


def test_no_rounding_turns_a_nan_into_a_number(tmp_path: Path) -> None:
    bits = [0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF, 0x7FC00000, 0x7F80FFFF]
    values = np.array(bits, dtype=np.uint32).view(np.float32)
    write_tensors(tmp_path / "m.safetensors", {"x": values}, dtype="bfloat16")
    back = read_tensors(tmp_path / "m.safetensors")["x"].float32()
    assert np.isnan(back).all()
    assert (np.signbit(back) == np.signbit(values)).all()


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 40, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "m.safetensors"
    write_tensors(path, ARRAYS)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"is not a whole safetensors file.*copy or download"):
        read_tensors(path)


def test_a_file_with_something_after_its_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write_tensors(path, ARRAYS)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match=r"its tensors need \d+ bytes, the file has"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"not json", "its header is not readable"),
        (b"\xff\xfe\xfd", "its header is not readable"),
        (b"[]", "its header is not readable"),
        (b'{"a": 1}', "its header is not readable"),
        (b"[" * 100_000, "its header is not readable"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "its header is not readable"),
        ({"a": entry([1e999], 0, 8)}, "its header is not readable"),
        ({"a": entry([2], 0, 4)}, r"tensor a does not lie where its shape \(2,\) says"),
        ({"a": entry([2], 4, 12)}, "tensor a does not lie"),
        ({"a": entry([-2, -1], 0, 8)}, "tensor a does not lie"),
        ({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, "tensor b does not lie"),
        ({"a": entry([2**62, 2**62], 0, 8)}, "tensor a does not lie"),
        ({"a": entry([1], 0, 8, "I64")}, "tensor a has dtype I64; expected one of .*'BF16'"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: object, message: str) -> None:
    path = file_of(tmp_path / "m.safetensors", header, b"\0" * 8)
    with pytest.raises(CheckpointError, match=message):
        read_tensors(path)


def test_a_header_longer_than_the_file_is_refused_unread(tmp_path: Path) -> None:
    path = file_of(tmp_path / "m.safetensors", b"{}", length=2**63)
    with pytest.raises(CheckpointError, match="its header claims 9223372036854775808 bytes of 10"):
        read_tensors(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read .*Is a directory"):
        read_tensors(tmp_path)
    with pytest.raises(CheckpointError, match=r"cannot read .*No such file"):
        read_tensors(tmp_path / "absent")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.integers(0, 300), byte=st.integers(0, 255), cut=st.integers(0, 300))
def test_a_damaged_file_is_read_or_refused_and_never_crashes(
    tmp_path: Path, place: int, byte: int, cut: int
) -> None:
    path = tmp_path / "m.safetensors"
    write_tensors(path, ARRAYS)
    raw = bytearray(path.read_bytes())
    raw[place % len(raw)] = byte
    path.write_bytes(raw[: len(raw) - cut] if cut < 50 else raw)
    try:
        tensors = read_tensors(path)
    except CheckpointError:
        return
    for tensor in tensors.values():
        assert tensor.float32().shape == tensor.shape


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["a", "dtype", "shape", "data_offsets", "__metadata__"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_as_header_is_read_or_refused(tmp_path: Path, header: object) -> None:
    path = file_of(tmp_path / "m.safetensors", header)
    with contextlib.suppress(CheckpointError):
        assert all(0 in tensor.shape for tensor in read_tensors(path).values())


def test_arrays_of_a_new_file_are_filled_when_it_suits(tmp_path: Path) -> None:
    shapes = {
        "a": (np.dtype("<f4"), (3, 2)),
        "codes": (np.dtype("i1"), (5,)),
        "packed": (np.dtype("u1"), (2, 3)),
    }
    path = tmp_path / "w.safetensors"
    with new_tensors(path, shapes) as arrays:
        arrays["packed"][1] = 7
        arrays["a"][...] = 1.5
        arrays["codes"][2] = -3
        assert not path.exists()  # not before it is whole
    read = read_tensors(path, codes=True)
    assert read["a"].mapped().tolist() == [[1.5, 1.5]] * 3
    assert read["codes"].mapped().tolist() == [0, 0, -3, 0, 0]
    assert read["packed"].mapped().tolist() == [[0, 0, 0], [7, 7, 7]]
    with safe_open(path, framework="numpy") as theirs:
        assert theirs.get_tensor("codes").tolist() == [0, 0, -3, 0, 0]


def test_a_new_file_that_fails_or_has_no_room_leaves_nothing(tmp_path: Path) -> None:
    shapes = {"a": (np.dtype("<f4"), (3,))}
    with pytest.raises(ZeroDivisionError), new_tensors(tmp_path / "w", shapes):
        _ = 1 / 0
    vast = {"a": (np.dtype("<f4"), (1 << 58,))}
    with pytest.raises(InputError, match=r"cannot write .*w"), new_tensors(tmp_path / "w", vast):
        raise AssertionError("claimed an exabyte")
    assert list(tmp_path.iterdir()) == []
