"""`san crops`: from a video and a tracker's boxes to a camera's folder of crops."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options

if TYPE_CHECKING:
    from ..io.progress import Progress
    from ..video.crops import CropsResult

#: Tracks without a crop that are named; the rest is counted. `--json` names all.
_NAMED = 10


class _Size(click.ParamType):
    name = "WxH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", str(value))
        if match is None:
            self.fail(f"'{value}' is no size; give width and height, for example 1920x1080", param, ctx)
        return int(match[1]), int(match[2])


@click.command("crops", cls=options.GroupedCommand)
@click.argument("video", metavar="VIDEO", type=click.Path(path_type=Path))
@click.option(
    "--detections",
    metavar="FILE",
    type=click.Path(path_type=Path),
    required=True,
    help="The tracker's boxes: a file, or a folder with a file per frame.",
)
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    required=True,
    help="The camera's folder, to write.",
)
@click.option(
    "--format",
    "form",
    metavar="NAME",
    default="",
    help="csv, mot, coco, ultralytics, ultralytics-json, kitti or deepstream-json.  [default: by content]",
)
@click.option(
    "--first-frame",
    type=click.IntRange(0),
    help="Number of the first frame in FILE.  [default: the format's]",
)
@click.option(
    "--box-size",
    type=_Size(),
    help="Width x height of the frames that the tracker saw.  [default: the video's]",
)
@click.option("--stream", type=click.IntRange(0), help="DeepStream's stream, where FILE has several.")
@click.option(
    "--fps",
    type=options.Number(0, min_open=True),
    help="Frames a second, where VIDEO is a folder of images.",
)
@click.option(
    "--start",
    metavar="ISO-TIME",
    type=click.DateTime(["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S%z"]),
    help="When the first frame was shown: tracks.csv then has times of day.",
)
@click.option("--camera", default="", help="Its name in tracks.csv.  [default: the name of DIR]")
@click.option(
    "--per-track",
    type=click.IntRange(1, 1000),
    default=16,
    show_default=True,
    help="Crops of a track at most.",
)
@click.option("--min-height", type=options.Number(1), default=48, show_default=True, help="Of a box, pixels.")
@click.option(
    "--max-overlap",
    type=options.Number(0, 1),
    default=0.5,
    show_default=True,
    help="Part of a box that a nearer one may cover.",
)
@click.option(
    "--min-sharpness",
    type=options.Number(0),
    default=0.0,
    show_default=True,
    help="Variance of the Laplacian at 128 x 64.",
)
@click.option("--force", is_flag=True, help="Replace a folder that san crops wrote.")
@options.as_json
def command(*, video: Path, detections: Path, output: Path, as_json: bool, **given: Any) -> None:
    """Cut the best crops of each track out of VIDEO, by boxes of your own detector and tracker.

    DIR gets a folder per track and tracks.csv: when each track began and ended, and how good its crops are. It is
    what san match, san embed and san gallery take as a camera.
    """
    from ..io.atomic import atomic_folder
    from ..io.progress import bar
    from ..video.crops import CropOptions, as_dict, crop_video, written_names
    from ..video.formats import ReadOptions, read_detections
    from ..video.frames import Video, opencv

    opencv()
    read = ReadOptions(given["first_frame"], video.stem, given["stream"])
    source = Video(video, given["fps"])
    boxes = read_detections(detections, given["form"], read)
    chosen = CropOptions(
        per_track=given["per_track"],
        min_height=given["min_height"],
        max_overlap=given["max_overlap"],
        min_sharpness=given["min_sharpness"],
        made_for_wh=given["box_size"],
        start=given["start"],
        camera=given["camera"] or output.absolute().name,
    )
    bars: list[Progress] = []

    def progress(total: int) -> Callable[[int], object]:
        for earlier in bars:
            earlier.__exit__(None, None, None)
        bars.append(bar(total or None, "cutting" if total else "reading times", "frame", quiet=as_json))
        return bars[-1]

    try:
        with atomic_folder(output, force=given["force"], ours=sorted(written_names(output))) as temporary:
            result = crop_video(source, boxes, temporary, chosen, progress)
    finally:
        for item in bars:
            item.__exit__(None, None, None)
    if as_json:
        told = {"output": str(output), "format": boxes.format, **as_dict(result)}
        click.echo(json.dumps(told, indent=2, sort_keys=True))
    else:
        click.echo(_text(result, output, boxes.format))


def _text(result: CropsResult, output: Path, form: str) -> str:
    from .text import columns

    crops = sum(track.crops for track in result.tracks)
    lines = [
        ("video", f"{result.frames} frames, {result.seconds:.1f} s"),
        ("boxes", f"read as {form}; " + (_counts(result.rejected) or "all may give crops")),
        *(("", note) for note in result.notes),
        ("crops", f"{crops} of {len(result.tracks)} tracks"),
    ]
    if result.lost:
        some = ", ".join(f"{track} ({reason})" for track, reason in list(result.lost.items())[:_NAMED])
        more = ", ..." if len(result.lost) > _NAMED else ""
        lines.append(("lost", f"{len(result.lost)} tracks without a crop: {some}{more}"))
    lines.append(("output", f"{output}; next: san match {output} OTHER-CAMERA"))
    return columns(lines)


def _counts(rejected: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in rejected.items() if count)
