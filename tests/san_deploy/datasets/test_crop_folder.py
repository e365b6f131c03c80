"""A crop folder in its exact layout, and everything that can be wrong with identities.csv."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from san_deploy.datasets import Crop, read_dataset
from san_deploy.datasets.crop_folder import identity_notes, read_identities
from san_deploy.errors import SanError

HEADER = "camera,track,person,split\n"


def build(root: Path, text: str, *tracks: str, encoding: str = "utf-8") -> Path:
    """A data set with two crops in each of `tracks`, and `text` as its identities.csv."""
    root.mkdir(parents=True, exist_ok=True)
    for track in tracks:
        folder = root / track
        folder.mkdir(parents=True)
        for name in ("0002.jpg", "0001.JPG"):
            Image.new("RGB", (4, 8)).save(folder / name, "JPEG")
        (folder / ".0003.jpg").write_bytes(b"hidden")
        (folder / "notes.txt").write_text("no crop")
    (root / "identities.csv").write_text(text, encoding=encoding)
    return root


def test_layout(tmp_path: Path) -> None:
    text = HEADER + "cam1,t001,7,test\ncam2,t001,3,train\ncam1,t002,3,train\ncam1,t003,9,extra\n"
    root = build(tmp_path / "data", text, "cam1/t001", "cam1/t002", "cam2/t001", "cam1/t003")
    dataset = read_dataset(root)
    assert list(dataset.splits) == ["train", "test", "extra"] and not dataset.unsplit
    folder = root / "cam1" / "t001"
    assert dataset.splits["test"] == [
        Crop(folder / "0001.JPG", 7, "cam1", "t001"),
        Crop(folder / "0002.jpg", 7, "cam1", "t001"),
    ]
    assert {(crop.camera, crop.track) for crop in dataset.splits["train"]} == {
        ("cam2", "t001"),
        ("cam1", "t002"),
    }
    summary = dataset.summary().splitlines()
    assert summary[0] == f"crop folder in {root}"
    assert summary[2].split() == ["train", "4", "1", "2", "2", "0", "0"]


@pytest.mark.parametrize(
    "text",
    [
        "camera,track,person\ncam1,t001,7\n",  # no split
        "camera,track,person,split\ncam1,t001,7,\n",  # empty split
        "camera,track,person,split\ncam1,t001,7,  \n",
        "person,track,camera\n7,t001,cam1\n",  # another order
        "camera,track,person\r\ncam1,t001,7\r\n",
        'camera,track,person\n"cam1","t001"," 7 "\n',
    ],
)
def test_split_is_train_where_it_is_not_said(tmp_path: Path, text: str) -> None:
    dataset = read_dataset(build(tmp_path, text, "cam1/t001"))
    assert list(dataset.splits) == ["train"] and dataset.unsplit


def test_byte_order_mark_of_a_spreadsheet(tmp_path: Path) -> None:
    root = build(tmp_path, HEADER + "cam1,t001,7,test\n", "cam1/t001", encoding="utf-8-sig")
    assert read_identities(root / "identities.csv") == {("cam1", "t001"): (7, "test")}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "must be camera,track,person or camera,track,person,split. It is empty."),
        (
            "camera,track\ncam1,t001\n",
            "must be camera,track,person or camera,track,person,split. Found 'camera,track'",
        ),
        (HEADER, "names no tracklet"),
        (HEADER + "cam1,t001,seven,test\n", "line 2: 'seven' is no person. Persons are whole numbers from 1"),
        (HEADER + "cam1,t001,-3,test\n", "'-3' is no person"),
        (HEADER + "cam1,t001,1.5,test\n", "'1.5' is no person"),
        (
            HEADER + f"cam1,t001,{10**18},test\n",
            "line 2: '1000000000000000000' is no person. Persons are whole numbers from 1 to 9",
        ),
        (HEADER + f"cam1,t001,{'9' * 5000},test\n", f"line 2: '{'9' * 40}' is no person"),
        (HEADER + "cam1,t001\n", "'' is no person"),
        (HEADER + "cam1,t001,7,test\ncam1,t001,8,test\n", "line 3: cam1/t001 is named a second time"),
        (HEADER + "cam1,../../etc,7,test\n", "'cam1/../../etc' is no name"),
        (HEADER + "..,t001,7,test\n", "'../t001' is no name"),
        (HEADER + "/etc,t001,7,test\n", "'/etc/t001' is no name"),
        (HEADER + "cam1,./t001,7,test\n", "'cam1/./t001' is no name"),
        (HEADER + "cam1,t001/,7,test\n", "'cam1/t001/' is no name"),
        (HEADER + "cam1,.,7,test\n", "is no name"),
        (HEADER + ",t001,7,test\n", "'/t001' is no name"),
    ],
)
def test_bad_identities(tmp_path: Path, text: str, told: str) -> None:
    root = build(tmp_path, text, "cam1/t001")
    with pytest.raises(SanError) as caught:
        read_dataset(root)
    assert told in str(caught.value)
    assert "identities.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "people", "note"),
    [
        # Numbered from 0: each passes each camera once.
        (["cam1,a,0", "cam2,a,0", "cam1,b,1", "cam2,b,1"], [1, 1, 2, 2], "is taken for a person"),
        # Distractors: two in one camera, or one camera only.
        (["cam1,a,0", "cam1,b,0", "cam2,a,0", "cam2,b,1"], [0, 0, 0, 1], "counts as a distractor"),
        (["cam1,a,0", "cam1,b,1", "cam2,a,1"], [0, 1, 1], "counts as a distractor"),
        (["cam1,a,1", "cam2,a,2"], [1, 2], None),
    ],
)
def test_a_person_0_is_told_from_distractors(
    tmp_path: Path, rows: list[str], people: list[int], note: str | None
) -> None:
    tracks = ["/".join(row.split(",")[:2]) for row in rows]
    root = build(tmp_path, "camera,track,person\n" + "\n".join(rows) + "\n,,\n", *tracks)
    assert [person for person, _ in read_identities(root / "identities.csv").values()] == people
    found = read_dataset(root)
    assert [crop.person for crop in found.splits["train"]] == [
        p for person in people for p in (person, person)
    ]
    for notes in (found.notes, identity_notes(root / "identities.csv")):
        assert notes == () if note is None else note in notes[0]


@pytest.mark.parametrize("spelling", ["-1", "00-1", "-2"])
def test_junk_is_left_out_and_counted(tmp_path: Path, spelling: str) -> None:
    text = f"camera,track,person\ncam1,a,{spelling}\ncam1,b,0003\ncam2,b,3\n"
    root = build(tmp_path, text, "cam1/a", "cam1/b", "cam2/b")
    assert read_identities(root / "identities.csv") == {
        ("cam1", "b"): (3, "train"),
        ("cam2", "b"): (3, "train"),
    }
    found = read_dataset(root)
    assert found.junk == {"train": 2} and {crop.person for crop in found.splits["train"]} == {3}
    assert found.notes == identity_notes(root / "identities.csv") and "junk" in found.notes[0]


@pytest.mark.parametrize("content", [b"\xff\xfe\x00camera", b"camera,track,person\ncam1,\xe9,7\n"])
def test_identities_in_another_encoding(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "identities.csv").write_bytes(content)
    with pytest.raises(SanError, match="is not a CSV file in UTF-8"):
        read_dataset(tmp_path)


def test_unknown_or_empty_track(tmp_path: Path) -> None:
    root = build(tmp_path, HEADER + "cam1,t001,7,test\ncam1,t002,7,test\n", "cam1/t001")
    with pytest.raises(SanError, match="names cam1/t002, which holds no image"):
        read_dataset(root)
    (root / "cam1" / "t002").mkdir()
    with pytest.raises(SanError, match="names cam1/t002, which holds no image"):
        read_dataset(root)


def test_missing_identities(tmp_path: Path) -> None:
    with pytest.raises(SanError, match="cannot read"):
        read_identities(tmp_path / "identities.csv")
