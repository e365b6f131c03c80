"""CUHK03 in its exact layouts: MATLAB's files, folders that other toolkits extracted, CUHK03-NP."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from san_deploy.datasets import Dataset, Options, count_positives, evaluation_set, read_dataset
from san_deploy.errors import SanError, UsageError
from san_deploy.images import read_image
from tests.san_deploy.datasets.layouts import market_folders, touch

#: People per camera pair; the real set has 843, 440, 77, 58 and 49.
PEOPLE = (3, 2, 1, 1, 1)
#: Missing images, as (pair, person, image), all from 1. Somebody is seen by one view alone.
MISSING = {(1, 2, 5), (1, 2, 10), *((3, 1, image) for image in range(6, 11))}
#: Two test sets of (pair, person).
TESTSETS = [[(1, 1), (2, 2)], [(1, 3), (5, 1)]]
OLD = Options(boxes="labelled", protocol="old")
NEW = Options(boxes="labelled", protocol="new")


def picture(boxes: str, pair: int, person: int, image: int) -> np.ndarray:
    """`(H, W, 3)` uint8 RGB, different for every image and not symmetric in any axis."""
    seed = [len(boxes), pair, person, image]
    height, width = 5 + image, 3 + person
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def images() -> list[tuple[int, int, int]]:
    return [
        (pair, person, image)
        for pair, people in enumerate(PEOPLE, 1)
        for person in range(1, people + 1)
        for image in range(1, 11)
        if (pair, person, image) not in MISSING
    ]


def file_name(pair: int, person: int, image: int) -> str:
    return f"{pair}_{person:03d}_{1 if image <= 5 else 2}_{image:02d}.png"


def write_mat(path: Path) -> None:
    """cuhk-03.mat as MATLAB 7.3 writes it: cells are references into #refs#, all arrays are transposed."""
    h5py = pytest.importorskip("h5py", reason="h5py (extra cuhk03) is not installed")
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        store = file.create_group("#refs#")

        def put(value: np.ndarray, kind: str) -> Any:
            data = store.create_dataset(f"r{len(store)}", data=value)
            data.attrs["MATLAB_class"] = np.bytes_(kind)
            return data.ref

        def cell(rows: list[list[Any]]) -> np.ndarray:
            out = np.empty((len(rows[0]), len(rows)), h5py.ref_dtype)
            for i, row in enumerate(rows):
                for j, reference in enumerate(row):
                    out[j, i] = reference
            return out

        def empty() -> Any:
            # An empty matrix is its two dimensions, with a mark.
            data = store.create_dataset(f"r{len(store)}", data=np.zeros(2, np.uint64))
            data.attrs["MATLAB_class"] = np.bytes_("double")
            data.attrs["MATLAB_empty"] = np.uint8(1)
            return data.ref

        for boxes in ("labeled", "detected"):
            pairs = []
            for pair, people in enumerate(PEOPLE, 1):
                rows = [
                    [
                        empty()
                        if (pair, person, image) in MISSING
                        else put(picture(boxes, pair, person, image).transpose(2, 1, 0), "uint8")
                        for image in range(1, 11)
                    ]
                    for person in range(1, people + 1)
                ]
                pairs.append([put(cell(rows), "cell")])
            file.create_dataset(boxes, data=cell(pairs)).attrs["MATLAB_class"] = np.bytes_("cell")
        sets = [[put(np.array(people, np.float64).T, "double")] for people in TESTSETS]
        file.create_dataset("testsets", data=cell(sets)).attrs["MATLAB_class"] = np.bytes_("cell")
    header = (
        b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan  1 00:00:00 2014 HDF5 schema 1.00 ."
    )
    with path.open("r+b") as raw:
        raw.write(header.ljust(116) + bytes(8) + b"\x00\x02IM")


def write_config(path: Path, files: list[str] | None = None) -> dict[str, list[str]]:
    """cuhk03_new_protocol_config_*.mat with its variables and types; files by split."""
    savemat = pytest.importorskip("scipy.io", reason="scipy (extra cuhk03) is not installed").savemat
    files = files or [file_name(*image) for image in images()]
    cells = np.empty((len(files), 1), object)
    cells[:, 0] = files
    people = sorted({name[:5] for name in files})
    tested = {"1_001", "2_001"}
    query = [n for n in files if n[:5] in tested and n.endswith(("_02.png", "_08.png"))]
    splits = {
        "train": [name for name in files if name[:5] not in tested],
        "query": query,
        "gallery": [name for name in files if name[:5] in tested and name not in query],
    }
    rows = {
        f"{split}_idx": np.array([[files.index(name) + 1] for name in names], np.uint16)
        for split, names in splits.items()
    }
    labels = np.array([[people.index(name[:5]) + 1] for name in files], np.uint16)
    cameras = np.array([[int(name[6])] for name in files], np.uint8)
    # Compressed, as MATLAB 7 and later write.
    savemat(path, {"filelist": cells, "labels": labels, "camId": cameras, **rows}, do_compression=True)
    return splits


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The layout in which FastReID and torchreid want it, too."""
    root = tmp_path / "cuhk03"
    write_mat(root / "cuhk03_release" / "cuhk-03.mat")
    for boxes in ("labeled", "detected"):
        write_config(root / f"cuhk03_new_protocol_config_{boxes}.mat")
    return root


def names(dataset: Dataset, split: str) -> list[str]:
    return [crop.path.name for crop in dataset.splits[split]]


@pytest.mark.parametrize(("boxes", "spelt"), [("labelled", "labeled"), ("detected", "detected")])
def test_crops_are_extracted_exactly(root: Path, boxes: str, spelt: str) -> None:
    dataset = read_dataset(root, Options(boxes=boxes, protocol="old"))
    folder = root / f"images_{spelt}"
    assert "were extracted to" in dataset.summary()
    assert sorted(path.name for path in folder.iterdir()) == [
        *sorted(file_name(*image) for image in images()),
        "testsets.json",
    ]
    for image in images():
        # read_image gives BGR.
        np.testing.assert_array_equal(
            read_image(folder / file_name(*image))[:, :, ::-1], picture(spelt, *image)
        )
    assert {path.name for path in root.iterdir() if path.name.startswith("images")} == {folder.name}


def test_old_protocol(root: Path) -> None:
    first, second = (
        read_dataset(root, Options(boxes="detected", protocol="old", testset=number)) for number in (1, 2)
    )
    assert first.name == "CUHK03 detected, old protocol, test set 1 of 2"
    for dataset, people in zip((first, second), TESTSETS, strict=True):
        want = [file_name(*image) for image in images() if image[:2] in people]
        assert names(dataset, "test") == want
        assert names(dataset, "train") == [file_name(*image) for image in images() if image[:2] not in people]
    crop = first.splits["test"][17]
    assert (crop.path.name, crop.person, crop.camera) == ("2_002_2_08.png", 2002, "c2")
    # People of different camera pairs are different.
    assert first.rows()[0]["people"] + first.rows()[1]["people"] == sum(PEOPLE)
    chosen = evaluation_set(first)
    assert chosen.single_shot and chosen.split == "test" and len(chosen.query) == 20
    assert count_positives(chosen).tolist() == [5] * 20


def test_new_protocol(root: Path) -> None:
    want = write_config(root / "cuhk03_new_protocol_config_labeled.mat")
    dataset = read_dataset(root, NEW)
    assert dataset.name == "CUHK03 labelled, new protocol" and not dataset.single_shot
    assert {split: names(dataset, split) for split in dataset.splits} == want
    assert [(crop.person, crop.camera) for crop in dataset.splits["query"]] == [
        *((1001, "c1"), (1001, "c2"), (2001, "c1"), (2001, "c2"))
    ]
    chosen = evaluation_set(dataset)
    assert count_positives(chosen).tolist() == [4] * 4 and not chosen.single_shot


def test_the_files_may_lie_together(tmp_path: Path) -> None:
    write_mat(tmp_path / "cuhk-03.mat")
    write_config(tmp_path / "cuhk03_new_protocol_config_labeled.mat")
    assert len(read_dataset(tmp_path, NEW).splits["query"]) == 4
    # Detected boxes have no list of the new protocol here, so the old one is the only one.
    assert "old protocol" in read_dataset(tmp_path, Options(boxes="detected")).name


def test_neither_boxes_nor_protocol_are_chosen_silently(root: Path) -> None:
    with pytest.raises(UsageError, match="Give --boxes labelled or --boxes detected"):
        read_dataset(root, Options(protocol="old"))
    with pytest.raises(UsageError, match="Give --protocol old or --protocol new"):
        read_dataset(root, Options(boxes="labelled"))
    with pytest.raises(UsageError, match="--boxes drawn is not there"):
        read_dataset(root, Options(boxes="drawn"))
    with pytest.raises(UsageError, match="--testset 3 does not exist"):
        read_dataset(root, Options(boxes="labelled", protocol="old", testset=3))
    with pytest.raises(UsageError, match="--testset belongs to CUHK03's old protocol"):
        read_dataset(root, Options(boxes="labelled", protocol="new", testset=1))
    assert read_dataset(root, Options(boxes="labeled", protocol="old")).name.startswith("CUHK03 labelled")


def test_extraction_happens_once_and_needs_the_mat_no_more(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_dataset(root, OLD)
    (root / "cuhk03_release" / "cuhk-03.mat").unlink()
    monkeypatch.setitem(sys.modules, "h5py", None)
    after = read_dataset(root, OLD)
    assert before.splits == after.splits and after.notes == ()


def test_cache(root: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    dataset = read_dataset(root, Options(boxes="labelled", protocol="old", cache=cache, no_camera=True))
    assert not (root / "images_labeled").exists()
    assert dataset.splits["test"][0].path == cache / "images_labeled" / "1_001_1_01.png"
    assert len({crop.camera for crop in dataset.splits["test"]}) == 20


def test_folders_of_other_toolkits(root: Path) -> None:
    """images_*/ and splits_*.json as FastReID and torchreid leave them, whose paths are another machine's."""
    old, new = read_dataset(root, OLD), read_dataset(root, NEW)

    def rows(files: list[str]) -> list[list[Any]]:
        return [[f"C:\\data\\images_labeled\\{name}", 0, int(name[6]) - 1] for name in files]

    classic = []
    for people in TESTSETS:
        test = [file_name(*image) for image in images() if image[:2] in people]
        classic.append({"train": [], "query": rows(test), "gallery": rows(test), "num_train_pids": 6})
    (root / "splits_classic_labeled.json").write_text(json.dumps(classic))
    lists = {split: rows(names(new, split)) for split in new.splits}
    (root / "splits_new_labeled.json").write_text(json.dumps([lists]))
    for path in (
        *root.glob("*.mat"),
        root / "cuhk03_release" / "cuhk-03.mat",
        root / "images_labeled" / "testsets.json",
    ):
        path.unlink()
    assert read_dataset(root, OLD).splits == old.splits
    assert read_dataset(root, NEW).splits == new.splits
    (root / "splits_new_labeled.json").write_text("[]")
    with pytest.raises(SanError, match=r"splits_new_labeled\.json is not torchreid's list"):
        read_dataset(root, NEW)
    (root / "splits_classic_labeled.json").write_text("[1]")
    with pytest.raises(SanError, match=r"splits_classic_labeled\.json is not a list of CUHK03's test sets"):
        read_dataset(root, OLD)


@pytest.mark.parametrize("inside", ["", "cuhk03-np"])
def test_cuhk03_np(tmp_path: Path, inside: str) -> None:
    for boxes in ("labeled", "detected"):
        market_folders(
            tmp_path / inside / boxes,
            bounding_box_train=["0001_c1_1.png", "0001_c2_6.png"],
            query=["0003_c1_2.png", "0003_c2_8.png"],
            bounding_box_test=["0003_c1_1.png", "0003_c2_10.png"],
        )
    dataset = read_dataset(tmp_path, Options(boxes="detected"))
    assert dataset.name == "CUHK03-NP detected, new protocol"
    assert dataset.splits["query"][0].path.parent == tmp_path / inside / "detected" / "query"
    assert count_positives(evaluation_set(dataset)).tolist() == [1, 1]
    with pytest.raises(UsageError, match="--protocol old is not there"):
        read_dataset(tmp_path, OLD)
    # One kind of boxes is a data set in Market-1501's layout by itself.
    alone = read_dataset(tmp_path / inside / "labeled")
    assert (alone.name, list(alone.splits)) == ("Market-1501 layout", ["train", "query", "gallery"])


def test_damaged_extraction(root: Path) -> None:
    read_dataset(root, NEW)
    (root / "images_labeled" / "1_001_1_02.png").unlink()
    with pytest.raises(SanError, match=r"does not hold 1_001_1_02\.png.*1 of 4 crops.*extracted again"):
        read_dataset(root, NEW)
    for path in (root / "images_labeled").glob("1_001*"):
        path.unlink()
    with pytest.raises(SanError, match="no crop of person 1001 of test set 1"):
        read_dataset(root, OLD)
    touch(root / "images_labeled", ["cat.png"])
    with pytest.raises(SanError, match=r"cat\.png has no name of the form"):
        read_dataset(root, OLD)


def test_nothing_is_left_of_an_extraction_that_fails(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []

    def fill_the_disk(image: Image.Image, path: Path, **options: Any) -> None:
        saved.append(path)
        if len(saved) == 5:
            raise OSError(28, "No space left on device")
        Path(path).touch()

    monkeypatch.setattr(Image.Image, "save", fill_the_disk)
    with pytest.raises(SanError, match=r"cannot write .*images_labeled: No space left"):
        read_dataset(root, OLD)
    assert not any("images" in path.name for path in root.iterdir())


def test_a_missing_extra_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(SanError, match=r"needs h5py.*pip install '\.\[cuhk03\]'"):
        read_dataset(root, OLD)
    monkeypatch.delitem(sys.modules, "h5py")
    read_dataset(root, OLD)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(SanError, match=r"needs scipy.*\.\[cuhk03\]"):
        read_dataset(root, NEW)


def test_not_the_mat_of_cuhk03(root: Path) -> None:
    h5py = pytest.importorskip("h5py")
    mat = root / "cuhk03_release" / "cuhk-03.mat"

    def refused(match: str) -> None:
        with pytest.raises(SanError, match=match) as caught:
            read_dataset(root, OLD)
        assert "\n" not in str(caught.value)
        assert not any("images" in path.name for path in root.iterdir())

    for odd in (0.0, np.nan, 1.5, 1e300):
        with h5py.File(mat, "r+") as file:
            people = file[file["testsets"][0, 0]]
            people[0, 0], was = odd, people[0, 0]
        refused(r"cuhk-03\.mat does not hold CUHK03.*A test set names nobody")
        with h5py.File(mat, "r+") as file:
            file[file["testsets"][0, 0]][0, 0] = was
    with h5py.File(mat, "r+") as file:
        del file["testsets"]
    refused(r"cuhk-03\.mat does not hold CUHK03.*testsets")
    with h5py.File(mat, "r+") as file:
        file["labeled"][0, 0] = file["labeled"].ref
    refused("does not hold CUHK03.*Camera pair 1 has shape")
    with h5py.File(mat, "r+") as file:
        del file["labeled"]
    refused("does not hold CUHK03.*labeled")
    mat.write_bytes(b"MATLAB 5.0 MAT-file" + bytes(500))
    refused(r"cuhk-03\.mat cannot be read.*version 7\.3")


@pytest.mark.parametrize("damage", ["index", "missing", "bytes"])
def test_not_a_list_of_the_new_protocol(root: Path, damage: str) -> None:
    from scipy.io import loadmat, savemat

    path = root / "cuhk03_new_protocol_config_labeled.mat"
    content = {key: value for key, value in loadmat(path).items() if not key.startswith("__")}
    if damage == "index":
        savemat(path, content | {"query_idx": np.array([[9999]], np.uint16)})
    elif damage == "missing":
        savemat(path, {key: value for key, value in content.items() if key != "gallery_idx"})
    else:
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(SanError, match=r"config_labeled\.mat is not a list of CUHK03's new protocol"):
        read_dataset(root, NEW)


@pytest.mark.parametrize("damage", ["flip", "cut", "zeros", "longer"])
def test_a_damaged_list_never_reaches_scipy(root: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """scipy's reader may end the process."""
    path = root / "cuhk03_new_protocol_config_labeled.mat"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    data = {"cut": data[:-3], "zeros": data + bytes(16), "longer": data + b"x"}.get(damage, data)
    path.write_bytes(data)
    monkeypatch.setattr("scipy.io.loadmat", lambda file: pytest.fail("scipy was asked"))
    with pytest.raises(SanError, match=r"config_labeled\.mat is not a list of CUHK03's new protocol"):
        read_dataset(root, NEW)
