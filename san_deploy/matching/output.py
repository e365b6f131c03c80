"""What `san match` leaves behind for other programs: matches.csv, matches.json and similarity.npz."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..datasets.tables import cell
from ..io.printable import printable
from .match import Candidate, Matching, MatchRow, PairMatching, iter_rows

if TYPE_CHECKING:
    from .accuracy import Accuracy
    from .identities import Identities
    from .identity_accuracy import IdentityAccuracy

#: Everything in an output folder, the report included; only a folder of nothing else is ever replaced.
OUTPUTS = ("matches.csv", "matches.json", "identities.csv", "similarity.npz", "report.html")
PEOPLE_COLUMNS = ("camera", "track", "person", "confidence", "margin")
COLUMNS = (
    "camera_a",
    "track_a",
    "camera_b",
    "track_b",
    "similarity",
    "matched",
    "unsure",
    "margin",
    "reason",
)
JSON_SCHEMA_VERSION = 1


def write_matches(
    folder: Path,
    matching: Matching,
    *,
    people: Identities,
    accuracy: Accuracy | None = None,
    people_accuracy: IdentityAccuracy | None = None,
    shown: Mapping[str, str] | None = None,
) -> None:
    """Write matches.csv, identities.csv, matches.json and similarity.npz into an existing folder.

    Args:
        folder: a temporary folder of `atomic_folder`, so that nothing half-written is ever seen.
        matching: the result.
        people: the identities over all cameras.
        accuracy: of the matches, judged by labels where there are some.
        people_accuracy: of the people, likewise.
        shown: camera name to the folder to write down, where that is not the one it was read from.

    Raises:
        OSError: no space, no permission; `atomic_folder` says it in words.
    """
    folder = Path(folder)
    rows = {pair.key: list(iter_rows(pair, matching.top)) for pair in matching.pairs}
    # A name that is not UTF-8 on disk must not stop the run: it is written with backslashes.
    with (folder / "matches.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in itertools.chain.from_iterable(rows.values()):
            margin = _decimals(row.margin) if row.matched and math.isfinite(row.margin) else ""
            names = map(cell, (row.camera_a, row.track_a, row.camera_b, row.track_b))
            values = (*names, _decimals(row.similarity))
            writer.writerow((*values, int(row.matched), int(row.unsure), margin, row.reason))
    _write_people(folder / "identities.csv", matching, people)
    told = as_dict(matching, rows, accuracy=accuracy, shown=shown)
    told["people"] = people_dict(people, people_accuracy)
    text = json.dumps(told, indent=1, allow_nan=False)
    (folder / "matches.json").write_text(text + "\n", encoding="utf-8")
    with (folder / "similarity.npz").open("wb") as binary:
        np.savez_compressed(binary, **_arrays(matching))  # type: ignore[arg-type]


def _write_people(path: Path, matching: Matching, people: Identities) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(PEOPLE_COLUMNS)
        for camera, person, confidence, margin in zip(
            matching.cameras, people.person, people.confidence, people.margin, strict=True
        ):
            for track, pid, sure, over in zip(
                camera.tracks.tolist(), person.tolist(), confidence.tolist(), margin.tolist(), strict=True
            ):
                known = _decimals(sure) if math.isfinite(sure) else ""
                ahead = _decimals(over) if math.isfinite(over) else ""
                writer.writerow((cell(camera.name), cell(track), pid, known, ahead))


def people_dict(people: Identities, accuracy: IdentityAccuracy | None) -> dict[str, Any]:
    """How many people there are and how they were found, as plain data."""
    return {
        "count": people.count,
        "tracklets_of_each": {str(size): people.sizes.count(size) for size in sorted(set(people.sizes))},
        "method": people.method,
        "same_camera": people.same_camera,
        "floor": None if people.floor is None else round(people.floor, 6),
        "known": sorted(people.known),
        "accuracy": accuracy.as_dict() if accuracy else None,
    }


def _arrays(matching: Matching) -> dict[str, np.ndarray]:
    """The content of similarity.npz: of each pair the nearest tracklets and the edges, or the whole matrix too."""
    arrays: dict[str, np.ndarray] = {"threshold": np.array(matching.threshold)}
    for pair in matching.pairs:
        # Names in a .zip are UTF-8.
        key = printable(pair.key)
        arrays[f"{key}|rows"] = pair.tracks_a.astype(np.str_)
        arrays[f"{key}|columns"] = pair.tracks_b.astype(np.str_)
        for side, nearest in (("rows", pair.nearest_a), ("columns", pair.nearest_b)):
            arrays[f"{key}|nearest_{side}"] = nearest.index
            arrays[f"{key}|nearest_{side}_similarity"] = nearest.similarity
        arrays[f"{key}|edges"] = np.stack([pair.edges.row, pair.edges.column], axis=1)
        arrays[f"{key}|edges_similarity"] = pair.edges.similarity
        if pair.similarity is not None:
            arrays[key] = pair.similarity
    return arrays


def as_dict(
    matching: Matching,
    rows: Mapping[str, Sequence[MatchRow]],
    *,
    accuracy: Accuracy | None = None,
    shown: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The content of matches.json, as plain data."""
    calibration = matching.calibration
    return {
        "schema_version": JSON_SCHEMA_VERSION,
        "parameters": matching.parameters,
        "model": matching.model,
        "threshold": threshold_dict(matching),
        "seconds": round(matching.seconds, 3),
        "crops_per_s": round(matching.crops_per_s, 1),
        "accuracy": accuracy.as_dict() if accuracy else None,
        "cameras": [
            {
                "name": camera.name,
                "folder": (shown or {}).get(camera.name, str(camera.folder)),
                "tracklets": len(camera.tracks),
                "crops": camera.crop_count,
                "seconds": round(camera.seconds, 3),
                "lost_tracks": camera.lost_tracks,
                "unreadable": [{"path": item.path, "reason": item.reason} for item in camera.unreadable],
            }
            for camera in matching.cameras
        ],
        "pairs": [
            summary(pair)
            | {
                "matches": [_row_dict(row) for row in rows[pair.key] if row.matched],
                "no_match": [_row_dict(row) for row in rows[pair.key] if not row.matched],
            }
            for pair in matching.pairs
        ],
    } | ({"calibration": asdict(calibration)} if calibration else {})


def threshold_dict(matching: Matching) -> dict[str, Any]:
    """The threshold, where it comes from, and the false match rate it stands for (None where not known)."""
    calibration = matching.calibration
    return {
        "similarity": matching.threshold,
        "source": calibration.source if calibration else "given by the user",
        "false_match_rate": calibration.false_match_rate if calibration else None,
        "true_match_rate": calibration.true_match_rate if calibration else None,
    }


def summary(pair: PairMatching) -> dict[str, Any]:
    """Counts of one camera pair, as plain data."""
    return {
        "camera_a": pair.camera_a,
        "camera_b": pair.camera_b,
        "tracklets_a": len(pair.tracks_a),
        "tracklets_b": len(pair.tracks_b),
        "matched": pair.matched,
        "unsure": int(pair.unsure.sum()),
        "noise": round(pair.noise, 6),
        "pairs_above_threshold": pair.edge_count,
        "no_match_a": len(pair.tracks_a) - pair.matched,
        "no_match_b": len(pair.tracks_b) - pair.matched,
    }


def _decimals(value: float) -> str:
    # No -0.000000: a reader compares text.
    return f"{round(value, 6) + 0.0:.6f}"


def _row_dict(row: MatchRow) -> dict[str, Any]:
    """One row as plain data; a track's runners-up stand under the key of its side."""
    result: dict[str, Any] = {
        "camera_a": row.camera_a,
        "track_a": row.track_a,
        "camera_b": row.camera_b,
        "track_b": row.track_b,
        "similarity": round(row.similarity, 6),
        "runners_up_a": [_candidate_dict(item) for item in row.runners_up_a],
    }
    if row.matched:
        result["runners_up_b"] = [_candidate_dict(item) for item in row.runners_up_b]
        result["margin"] = round(row.margin, 6) if math.isfinite(row.margin) else None
        result["unsure"] = row.unsure
    else:
        result["reason"] = row.reason
    return result


def _candidate_dict(candidate: Candidate) -> dict[str, Any]:
    return {"track": candidate.track, "similarity": round(candidate.similarity, 6)}
