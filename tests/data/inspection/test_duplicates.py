"""The same image twice, by its pixels' hash and by its file's bytes."""

from __future__ import annotations

import os
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.data.inspection.duplicates import (
    MOST_IN_A_BAND,
    NEAR_BITS,
    PROBE_BYTES,
    groups_by,
    near_pairs,
    same_bytes,
)


def named(values: list[int]) -> dict[Path, int]:
    return {Path(f"{i:05d}"): value for i, value in enumerate(values)}


def brute_force(hashes: dict[Path, int]) -> set[tuple[Path, Path]]:
    alike = combinations([path for path, value in hashes.items() if value], 2)
    return {(a, b) for a, b in alike if (hashes[a] ^ hashes[b]).bit_count() <= NEAR_BITS}


def flip(value: int, bits: list[int]) -> int:
    for bit in bits:
        value ^= 1 << bit
    return value


HASHES = st.integers(0, 2**64 - 1)
BITS = st.lists(st.integers(0, 63), max_size=6, unique=True)


@settings(max_examples=200, deadline=None)
@given(st.lists(HASHES, min_size=1, max_size=3), st.lists(st.tuples(st.integers(0, 9), BITS)))
def test_near_pairs_are_those_of_comparing_all_with_all(seeds, relatives):
    """Hashes that differ from few seeds in up to 6 bits, anywhere."""
    values = seeds + [flip(seeds[i % len(seeds)], bits) for i, bits in relatives]
    hashes = named(values)
    pairs = near_pairs(hashes)
    assert set(pairs) == brute_force(hashes)
    assert len(pairs) == len(set(pairs)) and pairs == sorted(pairs)


@pytest.mark.parametrize("bits", [[0, 63], [5, 6, 7], [0, 16, 32], [15, 31, 47], [16, 40, 63], []])
def test_3_bits_apart_are_near(bits: list[int]):
    value = 0x0123456789ABCDEF
    assert near_pairs(named([value, flip(value, bits)])) == [(Path("00000"), Path("00001"))]


@pytest.mark.parametrize("bits", [[0, 1, 2, 3], [0, 16, 32, 48], [60, 61, 62, 63], range(64)])
def test_4_bits_apart_are_not(bits: list[int]):
    value = 0x0123456789ABCDEF
    assert near_pairs(named([value, flip(value, bits)])) == []


def test_the_highest_bit_counts():
    assert near_pairs(named([2**63, 2**63 | 1])) and not near_pairs(named([2**63, 0b1111]))


@pytest.mark.parametrize("hashes", [{}, named([7]), named([0, 0, 0]), named([0, 1])])
def test_flat_and_lonely_images_are_near_to_none(hashes: dict[Path, int]):
    assert near_pairs(hashes) == []


def test_very_many_alike_images_take_no_quadratic_memory():
    """A film of one scene: not all of its pairs are listed, but other images are found."""
    same = [12345] * (MOST_IN_A_BAND + 1)
    other = 0xFFFF_0000_AAAA_1234
    pairs = near_pairs(named([*same, other, flip(other, [3, 40])]))
    last = MOST_IN_A_BAND + 1
    assert (Path(f"{last:05d}"), Path(f"{last + 1:05d}")) in pairs
    assert len(pairs) < 10 * MOST_IN_A_BAND


def test_many_different_images_are_compared_quickly():
    values = np.random.default_rng(0).integers(1, 2**63, 20_000).tolist()
    near = flip(values[77], [0, 20, 40])
    assert near_pairs(named([*values, near])) == [(Path("00077"), Path("20000"))]


def test_groups_by_a_key():
    keys = {Path("b"): "x", Path("a"): "x", Path("c"): "y", Path("e"): "z", Path("d"): "z"}
    assert groups_by(keys) == [[Path("a"), Path("b")], [Path("d"), Path("e")]]
    assert groups_by({}) == []


# files


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


def test_the_same_bytes_in_two_splits(tmp_path: Path):
    write(tmp_path, {"a": b"12", "b": b"12", "c": b"13", "d": b"12", "e": b"13", "f": b"1"})
    a, b, c, d, e, f = (tmp_path / name for name in "abcdef")
    assert same_bytes({"train": [a, b, c], "val": [d, f], "test": [e]}) == [[a, b, d], [c, e]]
    assert same_bytes({"train": [a, b], "val": [c, f]}) == []
    assert same_bytes({"train": [a, b, d]}) == []
    assert same_bytes({}) == same_bytes({"train": [], "val": []}) == []


@pytest.mark.parametrize("place", [0, PROBE_BYTES - 1, PROBE_BYTES, 50_000, 99_999])
def test_one_differing_byte_anywhere_separates_files(tmp_path: Path, place: int):
    content = bytearray(np.random.default_rng(0).bytes(100_000))
    write(tmp_path, {"a": content})
    content[place] ^= 1
    write(tmp_path, {"b": content})
    assert same_bytes({"train": [tmp_path / "a"], "val": [tmp_path / "b"]}) == []


@pytest.mark.parametrize("size", [0, 1, PROBE_BYTES, PROBE_BYTES + 1, 3 * PROBE_BYTES])
def test_files_of_any_size_are_the_same(tmp_path: Path, size: int):
    write(tmp_path, dict.fromkeys("ab", bytes(size)))
    a, b = tmp_path / "a", tmp_path / "b"
    assert same_bytes({"train": [a], "val": [b]}) == [[a, b]]


def test_links_are_the_same_file(tmp_path: Path):
    write(tmp_path, {"a": b"12"})
    (tmp_path / "b").symlink_to(tmp_path / "a")
    os.link(tmp_path / "a", tmp_path / "c")
    a, b, c = (tmp_path / name for name in "abc")
    assert same_bytes({"train": [a], "val": [b], "test": [c]}) == [[a, b, c]]


def test_missing_files_are_another_finding(tmp_path: Path):
    write(tmp_path, dict.fromkeys("ab", b"12"))
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    a, b = tmp_path / "a", tmp_path / "b"
    gone = [tmp_path / "gone", tmp_path / "link"]
    assert same_bytes({"train": [a, *gone], "val": [b, *gone]}) == [[a, b]]


def test_only_files_that_look_alike_are_read_whole(tmp_path: Path, monkeypatch):
    write(tmp_path, {"a": b"x" * 9000, "b": b"y" * 9000, "c": b"z" * 9001, "d": b"x" * 9000})
    a, b, c, d = (tmp_path / name for name in "abcd")
    whole, original = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: whole.append(self) or original(self))
    assert same_bytes({"train": [a, b], "val": [c, d]}) == [[a, d]]
    assert sorted(whole) == [a, d]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["train", "val"]), st.binary(max_size=2)), max_size=8))
def test_same_bytes_against_comparing_all(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("bytes")
    write(folder, {str(i): content for i, (_, content) in enumerate(files)})
    splits = {"train": [], "val": []}
    for i, (split, _) in enumerate(files):
        splits[split].append(folder / str(i))
    expected = []
    for content in {content for _, content in files}:
        same = [(split, folder / str(i)) for i, (split, c) in enumerate(files) if c == content]
        if len({split for split, _ in same}) == 2:
            expected.append(sorted(path for _, path in same))
    assert same_bytes(splits) == sorted(expected)
