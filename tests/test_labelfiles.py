"""Files of features and labels: what can be read, how images are matched, and what is refused, by its message."""

from __future__ import annotations

import errno
import json
import mmap
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.torch import save_file
from scipy.sparse import csr_matrix, load_npz

from rapids_slr.engine import rows
from rapids_slr.errors import InputError, RunError
from rapids_slr.labelfiles import join_labels, read_features, read_labels, write_labels, write_soft_labels


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def unit_rows() -> np.ndarray:
    x_ND = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    return x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)


# Features ------------------------------------------------------------------------------------------------------------


def write_lists(x_ND, kind, **columns):
    flat = pa.array(x_ND.ravel())
    if kind == "fixed":
        lists = pa.FixedSizeListArray.from_arrays(flat, x_ND.shape[1])
    else:
        lists = pa.LargeListArray.from_arrays(np.arange(0, x_ND.size + 1, x_ND.shape[1]), flat)
    pq.write_table(pa.table({**columns, "embedding": lists}), "f.parquet", row_group_size=4)  # several chunks


@pytest.mark.parametrize("kind", ["npy", "fortran", "safetensors", "columns", "lists", "fixed"])
def test_every_kind_of_feature_file_gives_the_same_rows(unit_rows, kind):
    path = Path({"npy": "f.npy", "fortran": "f.npy", "safetensors": "f.safetensors"}.get(kind, "f.parquet"))
    if path.suffix == ".npy":
        np.save(path, np.asfortranarray(unit_rows) if kind == "fortran" else unit_rows.astype(np.float64))
    elif kind == "safetensors":
        save_file({"features": torch.from_numpy(unit_rows), "identities": torch.arange(6)}, path)
    elif kind == "columns":
        pd.DataFrame(unit_rows, columns=[f"f{d}" for d in range(4)]).to_parquet(path)
    else:
        write_lists(unit_rows, kind)
    x_ND, images = read_features(path)
    assert (x_ND.dtype, x_ND.flags.c_contiguous) == (np.float32, True)
    assert_array_equal(x_ND, unit_rows)
    assert images.to_dict("list") == {"sample": [0, 1, 2, 3, 4, 5]}


@pytest.mark.parametrize("kind", ["columns", "lists"])
def test_columns_that_name_images_are_no_features(unit_rows, kind):
    names = {"path": [f"{i}.jpg" for i in range(6)], "sample": range(10, 16)}
    if kind == "lists":
        write_lists(unit_rows, "large", camera=list("aabbcc"), **{k: list(v) for k, v in names.items()})
    else:
        pd.DataFrame({**names, **dict(enumerate(unit_rows.T))}).rename(columns=str).to_parquet("f.parquet")
    x_ND, images = read_features(Path("f.parquet"))
    assert_array_equal(x_ND, unit_rows)
    assert images.to_dict("list") == {"path": names["path"], "sample": list(names["sample"])}


def test_an_unnamed_index_of_pandas_is_no_feature(unit_rows):
    pd.DataFrame(unit_rows, index=[3, 1, 4, 1, 5, 9]).rename(columns=str).to_parquet("f.parquet")
    assert read_features(Path("f.parquet"))[0].shape == (6, 4)


def test_one_of_several_tensors_is_chosen_by_its_key(unit_rows):
    save_file({"a": torch.ones(3, 2), "b": torch.from_numpy(unit_rows)}, "f.safetensors")
    assert_array_equal(read_features(Path("f.safetensors"), "b")[0], unit_rows)


def test_bfloat16_is_read_and_scaled(unit_rows):
    save_file({"f": torch.from_numpy(unit_rows).bfloat16()}, "f.safetensors")
    assert_allclose(read_features(Path("f.safetensors"), normalise=True)[0], unit_rows, atol=5e-3)


@pytest.mark.parametrize("scale", [1e-30, 7, 1e30])
def test_normalise_divides_rows_by_their_length(unit_rows, scale):
    np.save("f.npy", unit_rows * np.float32(scale))
    assert_allclose(read_features(Path("f.npy"), normalise=True)[0], unit_rows, atol=1e-6)
    with pytest.raises(InputError, match=r"f\.npy: (expected rows of unit length|NaN or infinite)"):
        read_features(Path("f.npy"))


def test_a_row_of_zeros_has_no_direction(unit_rows):
    unit_rows[2] = 0
    np.save("f.npy", unit_rows)
    with pytest.raises(InputError, match=r"expected rows of unit length, .* in 1 of 6 rows: 2"):
        read_features(Path("f.npy"), normalise=True)


def damaged(path, text=b"\x93NUMPY\x01"):
    Path(path).write_bytes(text)


FEATURE_FAULTS = {
    "gone": (lambda x: None, "f.npy", r"f\.npy: no such file"),
    "suffix": (lambda x: damaged("f.csv"), "f.csv", r"f\.csv: expected a name that ends in .npy, .safetensors, .parq"),
    "no suffix": (lambda x: None, "features", "features: expected a name that ends in .*, got none"),
    "folder": (lambda x: Path("f.npy").mkdir(), "f.npy", "no such file"),
    "npy cut off": (lambda x: damaged("f.npy"), "f.npy", r"f\.npy is damaged or no \.npy file \("),
    "parquet cut off": (lambda x: damaged("f.parquet"), "f.parquet", r"f\.parquet is damaged or no \.parquet file"),
    "safetensors cut off": (lambda x: damaged("f.safetensors"), "f.safetensors", "is damaged or no .safetensors file"),
    "pickle": (lambda x: np.save("f.npy", np.array([{}])), "f.npy", "damaged or no .npy file .*Object arrays"),
    "archive": (
        lambda x: damaged("f.npy", b"PK\x03\x04" + bytes(100)),
        "f.npy",
        "damaged or no .npy file .*magic string",
    ),
    "vector": (lambda x: np.save("f.npy", x[0]), "f.npy", r"f\.npy: expected \(N, D\) real numbers.*got \(4,\)"),
    "text": (lambda x: np.save("f.npy", np.array([["a"]])), "f.npy", r"got \(1, 1\) <U1"),
    "NaN": (lambda x: np.save("f.npy", x * [1, 1, np.nan, 1]), "f.npy", r"f\.npy: NaN or infinite values in 6 of 6"),
    "several tensors": (
        lambda x: save_file({"a": torch.ones(2, 2), "b": torch.ones(2, 2)}, "f.safetensors"),
        "f.safetensors",
        r"which one of a, b\? Choose with --key",
    ),
    "no matrix": (
        lambda x: save_file({"a": torch.ones(2)}, "f.safetensors"),
        "f.safetensors",
        r"a tensor \(N, D\) is not in it; it holds a \(2,\)",
    ),
    "text columns": (
        lambda x: pd.DataFrame({"f": [1.0], "name": ["a"]}).to_parquet("f.parquet"),
        "f.parquet",
        "or columns of numbers besides path and sample; got name .*string",
    ),
    "no columns": (
        lambda x: pd.DataFrame({"path": ["a"]}).to_parquet("f.parquet"),
        "f.parquet",
        "got nothing",
    ),
    "uneven lists": (
        lambda x: pq.write_table(pa.table({"e": [[1.0, 0], [1.0], None]}), "f.parquet"),
        "f.parquet",
        "e: expected lists of one length, got a list of 1 in row 1 after 2 in row 0",
    ),
    "missing list": (
        lambda x: pq.write_table(pa.table({"e": [[1.0, 0], None]}), "f.parquet"),
        "f.parquet",
        "got no list in row 1",
    ),
    "lists of text": (
        lambda x: pq.write_table(pa.table({"e": [["a"]]}), "f.parquet"),
        "f.parquet",
        "expected lists of numbers, got list<",
    ),
}


@pytest.mark.parametrize("case", FEATURE_FAULTS)
@pytest.mark.parametrize("normalise", [False, True])
def test_feature_files_that_cannot_be_used(unit_rows, case, normalise):
    write, path, message = FEATURE_FAULTS[case]
    write(unit_rows)
    with pytest.raises(InputError, match=message):
        read_features(Path(path), normalise=normalise)


def test_keys_that_cannot_be_used(unit_rows):
    np.save("f.npy", unit_rows)
    with pytest.raises(InputError, match="one array without a name; leave out --key"):
        read_features(Path("f.npy"), "a")
    pd.DataFrame({"f": [1.0]}).to_parquet("f.parquet")
    with pytest.raises(InputError, match="'g' is not in it; it holds f double"):
        read_features(Path("f.parquet"), "g")
    with pytest.raises(InputError, match="f: expected lists of numbers, got double"):
        read_features(Path("f.parquet"), "f")


# Labels --------------------------------------------------------------------------------------------------------------

LABELS = [-1, 0, 2, 0]


@pytest.mark.parametrize("name", ["a.npy", "a.csv", "a.parquet", "a.PARQUET"])
def test_labels_come_back_as_they_were_written(name):
    table = pd.DataFrame({"path": ["01", "2", "3", "x"], "cluster": np.array(LABELS, np.int32)})
    write_labels(Path("new/folder", name), table, "cluster")
    file = read_labels(Path("new/folder", name))
    assert (file.labels_N.dtype, file.labels_N.tolist()) == (np.int32, LABELS)
    assert file.images.to_dict("list") == ({} if name == "a.npy" else {"path": ["01", "2", "3", "x"]})


@pytest.mark.parametrize(
    "columns",
    [
        {"label": LABELS},
        {"cluster": LABELS, "previous": [9] * 4, "refined": [9] * 4, "confidence": [0.5] * 4},
        {"anything": LABELS},
        {"sample": [4, 5, 6, 7], "anything": LABELS},
        {"label": np.array(LABELS, np.float32)},
        {"label": pd.array(LABELS, "Int64")},
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_column_of_labels_is_found(columns, suffix):
    path = Path("a" + suffix)
    table = pd.DataFrame(columns)
    table.to_csv(path, index=False) if suffix == ".csv" else table.to_parquet(path)
    assert read_labels(path).labels_N.tolist() == LABELS


def test_a_column_can_be_chosen():
    pd.DataFrame({"cluster": LABELS, "refined": [1, 1, 0, 0]}).to_csv("a.csv", index=False)
    assert read_labels(Path("a.csv"), "refined").labels_N.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a\.csv is damaged or no \.csv file \(No columns to parse"),
        ("0\n1\n2\n", "the first line holds numbers; put a line with the names of the columns before it"),
        ("label,cluster\n1,1\n", r"a\.csv: which one of label, cluster\? Choose with --column"),
        ("a,b\n1,1\n", r"which one of a, b\? Choose with --column"),
        ("path\nx\n", r"a column label or cluster is not in it; it holds path str"),
        ("label\n0\n1.5\n", r"a\.csv: label\[1\] is 1.5, expected a whole number \(1 such labels\)"),
        ("label,x\n0,0\n,1\n", r"a\.csv: label\[1\] is nan, expected a whole number"),
        ("label\n0\n-2\n", r"a\.csv: label\[1\] is -2, expected -1 \(outlier\) or a cluster from 0"),
        ("label\ncat\ndog\n", r"a\.csv: label: expected \(N,\) integers, got shape \(2,\)"),
        ("label\n0\n1,2,3\n", r"a\.csv is damaged or no \.csv file \(Error tokenizing data"),
    ],
)
def test_label_tables_that_cannot_be_used(text, message):
    Path("a.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_labels(Path("a.csv"))


def test_label_arrays_that_cannot_be_used():
    np.save("a.npy", np.zeros((2, 3), np.int32))
    with pytest.raises(InputError, match=r"a\.npy: labels: expected \(N,\) integers, got shape \(2, 3\) of int32"):
        read_labels(Path("a.npy"))
    with pytest.raises(InputError, match=r"a\.txt: expected a name that ends in \.npy, \.csv, \.parquet, got \.txt"):
        read_labels(Path("a.txt"))


# Matching ------------------------------------------------------------------------------------------------------------


def label_file(file, labels, **images):
    pd.DataFrame({**images, "label": labels}).to_csv(file, index=False)
    return read_labels(Path(file))


def test_images_are_matched_by_name_in_the_order_of_the_second_file():
    before = label_file("a.csv", [5, 6, 7], path=["x", "y", "z"], sample=[1, 2, 3])
    pair = join_labels(before, label_file("b.csv", [0, 1, 2], path=["z", "x", "y"]))
    assert (pair.matched_by, pair.previous_N.tolist(), pair.current_N.tolist()) == ("path", [7, 5, 6], [0, 1, 2])
    assert pair.images.to_dict("list") == {"path": ["z", "x", "y"], "sample": [3, 1, 2]}


def test_text_of_csv_and_parquet_is_the_same_text():
    before = label_file("a.csv", [5, 6], path=["007", "8"])
    pd.DataFrame({"path": pd.Categorical(["8", "007"]), "label": [0, 1]}).to_parquet("b.parquet")
    assert join_labels(before, read_labels(Path("b.parquet"))).previous_N.tolist() == [6, 5]


def test_without_a_common_name_images_are_matched_by_position():
    before = label_file("a.csv", [5, 6], sample=[8, 9])
    pair = join_labels(before, label_file("b.csv", [0, 1], path=["x", "y"]))
    assert (pair.matched_by, pair.previous_N.tolist()) == ("position", [5, 6])
    assert pair.images.to_dict("list") == {"path": ["x", "y"], "sample": [8, 9]}


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (
            {"labels": [0] * 9, "sample": range(9)},
            {"labels": [0] * 2, "sample": [1, 20]},
            r"a\.csv and b\.csv: expected the same images by sample, "
            r"got 8 only in a\.csv: 0, 2, 3, 4, 5, \.\.\.; 1 only in b\.csv: 20$",
        ),
        ({"labels": [0], "path": ["x"]}, {"labels": [0, 1], "path": ["x", "y"]}, r"by path, got 1 only in b\.csv: y$"),
        (
            {"labels": [0]},
            {"labels": [0, 1]},
            r"a\.csv has 1 labels, b\.csv has 2; .* both have a column path or sampl",
        ),
        (
            {"labels": [0, 1, 2], "path": ["x", "y", "x"]},
            {"labels": [0, 1], "path": ["x", "y"]},
            r"a\.csv: path occurs more than once: x$",
        ),
        (
            {"labels": [0, 1], "path": ["x", "y"]},
            {"labels": [0, 1], "path": ["x", None]},
            r"b\.csv: path is empty in 1 rows: 1$",
        ),
    ],
)
def test_files_of_different_images_are_refused(before, now, message):
    with pytest.raises(InputError, match=message):
        join_labels(label_file("a.csv", **before), label_file("b.csv", **now))


def test_no_images_at_all():
    np.save("a.npy", np.zeros(0, np.int32))
    pair = join_labels(read_labels(Path("a.npy")), read_labels(Path("a.npy")))
    assert (pair.current_N.size, len(pair.images)) == (0, 0)


# Writing -------------------------------------------------------------------------------------------------------------


def test_soft_labels_come_back():
    soft = csr_matrix(np.array([[0.5, 0.5], [0, 0], [1, 0]], np.float32))
    write_soft_labels(Path("s.npz"), soft)
    assert_array_equal(load_npz("s.npz").toarray(), soft.toarray())
    assert [path.name for path in Path().iterdir()] == ["s.npz"]


def test_a_failed_write_leaves_the_old_file_and_says_what_to_do(monkeypatch):
    Path("a.csv").write_text("old")

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", fail)
    with pytest.raises(RunError, match=r"a\.csv could not be written: No space left on device; .*name another file"):
        write_labels(Path("a.csv"), pd.DataFrame({"cluster": [1]}), "cluster")
    assert Path("a.csv").read_text() == "old"


def test_a_suffix_that_cannot_be_written_is_named():
    with pytest.raises(InputError, match=r"a\.txt: expected a name that ends in \.npy, \.csv, \.parquet, got \.txt"):
        write_labels(Path("a.txt"), pd.DataFrame({"cluster": [1]}), "cluster")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg,0\nb.jpg,1\n", "the first line holds numbers; put a line with the names of the columns before it"),
        ("path,3\nb.jpg,1\n", "the first line holds numbers"),
        ("-1,4\n0,5\n", "the first line holds numbers"),
        ("path;label\na;0\n", r"a\.csv: columns are separated by ';'; save it with commas"),
        ("0\t1\n0\t1\n", r"a\.csv: columns are separated by '\\t'; save it with commas"),
        ("label,label\n0,1\n", r"a\.csv: two columns have one name; the first line is label,label"),
        ("path,label\na,0,7\nb,1,8\n", "Error tokenizing data: line 2 has 3 values for 2 columns"),
        ("path,label\na,0\nb\n", "Error tokenizing data: line 3 has 1 values for 2 columns"),
        ("label\n001\n000\n", r"label\[0\] is '001', which begins with zeros as a name does \(2 such labels\)"),
        ('path,label\n"a,0\n', r"a\.csv is damaged or no \.csv file"),
        ("label\n0\n\x00\n", r"a byte 0, as no text does"),
    ],
)
def test_csv_labels_lose_no_line_and_no_zero(text, message):
    Path("a.csv").write_bytes(text.encode())
    with pytest.raises(InputError, match=message):
        read_labels(Path("a.csv"))


def test_names_in_a_csv_stay_as_they_are():
    Path("a.csv").write_text("sample,path,label\n001,NA,0\n002,null,1\n010,nan,-1\n")
    found = read_labels(Path("a.csv"))
    assert found.labels_N.tolist() == [0, 1, -1]
    assert found.images["path"].tolist() == ["NA", "null", "nan"]
    assert found.images["sample"].tolist() == ["001", "002", "010"]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32, np.uint64])
@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_outliers_that_have_lost_their_sign_are_refused(kind, suffix):
    labels_N = np.array([0, 1, -1, 2]).astype(kind)
    if suffix == ".npy":
        np.save("a.npy", labels_N)
    else:
        pd.DataFrame({"label": labels_N}).to_parquet("a.parquet")
    most = np.iinfo(kind).max
    with pytest.raises(
        InputError, match=rf"\[2\] is {most}, expected .*, which is what -1 \(outlier\) becomes without"
    ):
        read_labels(Path("a" + suffix))


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (b"{'descr': '<i4', 'fortran_order': False, 'shape': (3,), } *~\nuq(", ""),  # tokenize's own error
        (b"{'descr': '3i4', 'fortran_order': False, 'shape': (3,), }", "an entry of it is several values"),
    ],
)
def test_spoilt_headers_of_npy_are_refused(tmp_path, header, text):
    path = tmp_path / "labels.npy"
    head = header.ljust(117) + b"\n"
    path.write_bytes(
        b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + np.arange(3, dtype="<i4").tobytes()
    )
    with pytest.raises(InputError, match=r"labels\.npy is damaged or no \.npy file \(" + text):
        read_labels(path)


def test_features_in_a_npy_file_stay_there(tmp_path):
    x_ND = np.eye(4, dtype=np.float32)
    np.save(tmp_path / "f.npy", x_ND)
    found, _ = read_features(tmp_path / "f.npy")
    np.testing.assert_array_equal(found, x_ND)
    assert not found.flags.writeable
    assert isinstance(base_of(found), mmap.mmap)
    for kind in (np.float64, np.float16):
        np.save(tmp_path / "g.npy", x_ND.astype(kind))
        np.testing.assert_array_equal(read_features(tmp_path / "g.npy")[0], x_ND)


def base_of(x: object) -> object:
    """What holds the memory of an array."""
    while getattr(x, "base", None) is not None:
        x = x.base  # type: ignore[attr-defined]
    return x


def test_a_byte_0_in_a_csv_is_refused(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes(b"sample,label\n0,1\n\x00,2\n")
    with pytest.raises(InputError, match="it holds a byte 0, as no text does"):
        read_labels(path)


@pytest.mark.parametrize("label", ["१", "1_0", "٣"])
def test_labels_of_a_csv_are_ascii_numbers(tmp_path, label):
    path = tmp_path / "labels.csv"
    path.write_text(f"path,label\na,1\nb,{label}\n", encoding="utf-8")
    with pytest.raises(InputError):
        read_labels(path)


def test_features_in_safetensors_stay_there(tmp_path, unit_rows):
    first = np.ones((3, 5), np.int16)  # so that the tensor does not begin where the header ends
    save_file({"a": torch.from_numpy(first), "features": torch.from_numpy(unit_rows)}, tmp_path / "f.safetensors")
    x_ND, _ = read_features(tmp_path / "f.safetensors", "features")
    assert isinstance(base_of(x_ND), mmap.mmap)
    np.testing.assert_array_equal(x_ND, unit_rows)


@pytest.mark.parametrize("kind", ["lists", "numbers", "normalised"])
def test_features_that_memory_does_not_hold_go_to_a_file(tmp_path, unit_rows, kind, monkeypatch):
    monkeypatch.setattr(rows, "SHARE", 0)
    monkeypatch.setattr("rapids_slr.labelfiles.ROWS", 2)  # of six
    path = tmp_path / "f.parquet"
    if kind == "lists":
        pq.write_table(pa.table({"embedding": list(unit_rows)}), path, row_group_size=4)
    else:
        pd.DataFrame(unit_rows).rename(columns=str).to_parquet(path)
    x_ND, images = read_features(path, normalise=kind == "normalised")
    assert isinstance(base_of(x_ND), mmap.mmap)
    np.testing.assert_allclose(x_ND, unit_rows, atol=1e-7)
    assert len(images) == 6


def test_a_list_of_another_length_in_a_later_row_group_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("rapids_slr.labelfiles.ROWS", 2)
    pq.write_table(pa.table({"e": [[1.0, 0]] * 5 + [[1.0]]}), tmp_path / "f.parquet", row_group_size=2)
    with pytest.raises(InputError, match=r"f\.parquet: e: .* a list of 1 in row 5 after 2 in row 0"):
        read_features(tmp_path / "f.parquet")


def test_a_tensor_between_two_words_is_read(tmp_path, unit_rows):
    """Writers are free to put one behind an odd number of bytes."""
    data = b"abc" + unit_rows.tobytes()
    head = {
        "a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "f": {"dtype": "F32", "shape": list(unit_rows.shape), "data_offsets": [3, len(data)]},
    }
    text = json.dumps(head).encode()
    (tmp_path / "f.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    x_ND, _ = read_features(tmp_path / "f.safetensors")
    assert x_ND.flags.aligned
    assert_array_equal(x_ND, unit_rows)
