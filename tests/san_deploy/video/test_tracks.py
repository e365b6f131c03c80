from __future__ import annotations

from pathlib import Path

import pytest

from san_deploy.errors import SanError
from san_deploy.video.tracks import TrackTime, parse_time, read_track_times


def test_seconds_and_times_of_day(tmp_path: Path) -> None:
    (tmp_path / "tracks.csv").write_text("camera,track,start,end\na,t1,0.5,2\na,t2,1,1\n,,,\n")
    assert read_track_times(tmp_path) == {"t1": TrackTime(0.5, 2.0, False), "t2": TrackTime(1.0, 1.0, False)}
    (tmp_path / "tracks.csv").write_text(
        "track,start,end\nt1,1970-01-01T00:01:00,1970-01-01T02:00:01.5+02:00\n"
    )
    with pytest.raises(SanError, match="line 2 ends before it starts"):
        read_track_times(tmp_path)
    (tmp_path / "tracks.csv").write_text(
        "track,start,end\nt1,1970-01-01T00:01:00,1970-01-01T02:01:01.5+02:00\n"
    )
    assert read_track_times(tmp_path) == {"t1": TrackTime(60.0, 61.5, True)}
    assert parse_time("1970-01-01T00:00:10Z") == parse_time("1970-01-01T00:00:10") == 10


def test_none(tmp_path: Path) -> None:
    assert read_track_times(tmp_path) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("camera,track\na,t1\n", "has no column start, end"),
        ("track,start,end\nt1,soon,later\n", "line 2: 'soon' and 'later' are no times"),
        ("track,start,end\nt1,nan,2\n", "line 2 holds NaN"),
        ("track,start,end\nt1,1,2\nt1,1,2\n", "line 3 names t1 twice"),
        ("track,start,end\n,1,2\n", "line 2 has no track"),
        (f"track,start,end,boxes\nt1,1,2,{'9' * 30}\n", "line 2: boxes is '9{30}', which is no count"),
        ("track,start,end\nt1,1,2\nt2,2026-01-01,2026-01-02\n", "mixes times of day and seconds"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "tracks.csv").write_text(text)
    with pytest.raises(SanError, match=message):
        read_track_times(tmp_path)
