"""What `san match` prints: the summary in words, and as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..matching.accuracy import Accuracy
    from ..matching.identities import Identities
    from ..matching.identity_accuracy import IdentityAccuracy
    from ..matching.match import Matching


def as_text(matching: Matching, accuracy: Accuracy | None, calibration: Any = None) -> str:
    """The summary that is printed, without a newline at its end.

    Args:
        matching: the result.
        accuracy: judged by labels.
        calibration: of the model; says what a threshold of the user's stands for.
    """
    from ..matching.threshold import rates_at

    width = max((len(pair.camera_a) + len(pair.camera_b) for pair in matching.pairs), default=4) + 3
    title = f"{'cameras':{width}s} {'tracklets':>13s} {'matched':>8s} {'unsure':>7s} {'no match':>13s}"
    lines = [title] if matching.pairs else []  # one camera, beside a gallery, has none
    for pair in matching.pairs:
        names = f"{pair.camera_a} - {pair.camera_b}"
        sizes = f"{len(pair.tracks_a)} + {len(pair.tracks_b)}"
        left = f"{len(pair.tracks_a) - pair.matched} + {len(pair.tracks_b) - pair.matched}"
        lines.append(
            f"{names:{width}s} {sizes:>13s} {pair.matched:8d} {int(pair.unsure.sum()):7d} {left:>13s}"
        )
    message = f"threshold {matching.threshold:.4f}"
    if matching.calibration:
        message += f", reached by {matching.calibration.false_match_rate:.2%} of impostor pairs"
        message += f" ({matching.calibration.source})"
    else:
        message += ", given by the user"
        rates = rates_at(calibration, matching.threshold) if calibration else None
        if rates:
            message += f"; the model's calibration: reached by {rates[0]:.2%} of impostor pairs"
            message += f" and {rates[1]:.1%} of genuine pairs"
    lines.append(message)
    took = f" in {matching.seconds:.1f} s, {matching.crops_per_s:.1f} crops/s"
    lines.append(
        f"{matching.crop_count} crops{took if matching.seconds else ', embedded before'}, "
        f"{matching.unreadable} unreadable"
    )
    if accuracy:
        lines += accuracy_lines(accuracy)
    return "\n".join(lines)


def people_text(matching: Matching, people: Identities, accuracy: IdentityAccuracy | None) -> str:
    """The people over all cameras, in words."""
    sizes = people.sizes
    several = sum(size > 1 for size in sizes)
    rule = {
        "apart": "nobody is twice before one camera",
        "overlap": "nobody is twice before one camera at a time",
    }[people.same_camera]
    joined = {"average": "by average linkage", "greedy": "match by match, best first"}[people.method]
    lines = [
        f"people     {people.count:7d}  over all cameras, {several} of them with more than one tracklet, "
        f"joined {joined}; {rule}"
    ]
    if matching.parameters.get("gallery"):
        lines.append(
            f"known      {len(people.known):7d}  of them to the gallery before; "
            f"{people.count - len(people.known)} are new"
        )
    if people.floor is not None:
        lines.append(f"{'':18s}  pairs that are not stored count as {people.floor:.4f}")
    if accuracy:
        if accuracy.pair_f1 is not None:
            lines.append(
                f"pairs F1   {accuracy.pair_f1:7.1%}  precision {accuracy.pair_precision or 0:.1%}, "
                f"recall {accuracy.pair_recall or 0:.1%}"
            )
        lines.append(
            f"B-cubed F1 {accuracy.b_cubed_f1:7.1%}  precision {accuracy.b_cubed_precision:.1%}, "
            f"recall {accuracy.b_cubed_recall:.1%}"
        )
        if accuracy.idf1 is not None and accuracy.hota is not None:
            lines.append(
                f"IDF1       {accuracy.idf1:7.1%}  HOTA {accuracy.hota:.1%}, over all cameras' frames"
            )
        if accuracy.people:
            fraction = accuracy.whole / accuracy.people
            lines.append(
                f"whole      {fraction:7.1%}  {accuracy.whole} of {accuracy.people} people seen more than once"
            )
    return "\n".join(lines)


def accuracy_lines(accuracy: Accuracy) -> list[str]:
    """How well the matches agree with the labels, in words."""
    lines = []
    if accuracy.rank1 is not None:
        lines.append(f"rank-1     {accuracy.rank1:7.1%}  of tracklets, mean over ordered camera pairs")
    if accuracy.precision is not None:
        lines.append(
            f"precision  {accuracy.precision:7.1%}  {accuracy.right} of {accuracy.matched} matches are right"
        )
    if accuracy.recall is not None:
        lines.append(
            f"recall     {accuracy.recall:7.1%}  {accuracy.right} of {accuracy.possible} true pairs found"
        )
    if accuracy.unsure:
        lines.append(
            f"unsure     {accuracy.unsure:7d}  matches, {accuracy.unsure_right} of them right; without them "
            f"precision {accuracy.sure_precision or 0:.1%}, recall {accuracy.sure_recall or 0:.1%}"
        )
    if accuracy.alone:
        fraction = accuracy.alone_unmatched / accuracy.alone
        message = f"{accuracy.alone_unmatched} of {accuracy.alone} that the other camera never saw"
        lines.append(f"left alone {fraction:7.1%}  {message}")
    if accuracy.unlabelled:
        lines.append(f"{accuracy.unlabelled} tracklets have no label and were not judged")
    return lines


def as_dict(
    matching: Matching, accuracy: Accuracy | None, people: Identities, judged: IdentityAccuracy | None
) -> dict[str, Any]:
    """The same summary as plain data."""
    from ..matching.output import people_dict, summary, threshold_dict

    return {
        "pairs": [summary(pair) for pair in matching.pairs],
        "threshold": threshold_dict(matching),
        "crops": matching.crop_count,
        "seconds": round(matching.seconds, 3),
        "crops_per_s": round(matching.crops_per_s, 1),
        "unreadable": matching.unreadable,
        "accuracy": accuracy.as_dict() if accuracy else None,
        "people": people_dict(people, judged),
    }
