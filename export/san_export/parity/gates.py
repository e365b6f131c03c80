"""What a target must reach: names, defaults by precision and mask, and what a user asks instead.

Those of the cosines stand in `verify.GATES`, which `san export` reads too; all others in the tables below.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from san_deploy.artefact import Artefact
from san_deploy.errors import UsageError

from ..verify import GATES, mask_kind
from .result import Check

#: Every gate: whether its figure must be at least the limit, and what is measured.
NAMES: dict[str, tuple[bool, str]] = {
    "artefact": (False, "facts of the target's description that are not so"),
    "preprocess_equal": (False, "largest difference of the normalised input"),
    "min_cosine": (True, "least row cosine, at every batch size"),
    "p1_cosine": (True, "1st percentile of the row cosines"),
    "mean_cosine": (True, "mean row cosine"),
    "max_abs": (False, "largest difference of two numbers of unit rows"),
    "batch_invariance": (True, "least cosine of a crop's rows in two batches"),
    "finite": (False, "crops without a finite row"),
    "norm": (False, "largest distance of a row's length from 1"),
    "flipped": (False, "largest share of flipped bits in a block"),
    "unexplained_flips": (False, "largest ratio of flips to those that rounding predicts"),
    "layers": (False, "layers that differ by more than rounding"),
    "rank1_drop": (False, "loss of rank-1, points"),
    "map_drop": (False, "loss of mAP, points"),
    "minp_drop": (False, "loss of mINP, points"),
    "top1_agreement": (
        True,
        "share of crops whose nearest neighbour is as near on both sides, without labels",
    ),
    "top10_overlap": (True, "share of the ten nearest neighbours that both have, without labels"),
}

#: Names of before, which are still read.
_OLD_NAMES = {"divergence": "layers"}
#: Gates that not every comparison has: with labels only, of sharp masks, and of masks with bits.
_OF_LABELS = frozenset({"rank1_drop", "map_drop", "minp_drop"})
_OF_MASKS = frozenset({"flipped", "unexplained_flips"})
_OF_BITS = frozenset({"unexplained_flips"})
#: The stage that measures each, by the stage's name.
GATES_OF: dict[str, frozenset[str]] = {
    "artefact": frozenset({"artefact"}),
    "embeddings": frozenset(
        {"min_cosine", "p1_cosine", "mean_cosine", "max_abs", "batch_invariance", "finite", "norm"}
    ),
    "ranking": _OF_LABELS | {"top1_agreement", "top10_overlap"},
    "preprocessing": frozenset({"preprocess_equal"}),
    "masks": _OF_MASKS,
    "layers": frozenset({"layers"}),
}

#: Of every precision and mask.
_ALL = {"artefact": 0.0, "finite": 0.0, "norm": 1e-3, "layers": 0.0, "unexplained_flips": 3.0}
_RANKING = {
    "rank1_drop": 0.1,
    "map_drop": 0.1,
    "minp_drop": 0.1,
    "top1_agreement": 0.995,
    "top10_overlap": 0.99,
}
#: By precision. FP16 of the normalised input: half a step of FP16 between 2 and 4, where it is coarsest.
_BY_PRECISION: dict[str, dict[str, float]] = {
    "fp32": _RANKING | {"preprocess_equal": 0.0},
    "fp16": _RANKING | {"preprocess_equal": 2.0**-10},
    "int8": {
        "rank1_drop": 0.5,
        "map_drop": 0.5,
        "minp_drop": 0.5,
        "top1_agreement": 0.98,
        "top10_overlap": 0.97,
    }
    | {"preprocess_equal": 0.0},
}
#: By precision and kind of mask, beside `verify.GATES`. Neighbours with argmax: what the starter model reaches on
#: WARD, 0.965 and 0.972 in FP16, 0.88 and 0.92 in INT8, while its rank-1 stays.
_BY_MASK: dict[tuple[str, str], dict[str, float]] = {
    ("fp32", "argmax"): {"flipped": 1e-4},
    ("fp32", "ramp"): {"max_abs": 2e-3, "flipped": 1e-4},
    ("fp32", "smooth"): {"max_abs": 1e-3},
    ("fp16", "argmax"): {"flipped": 0.01, "top1_agreement": 0.95, "top10_overlap": 0.95},
    ("fp16", "ramp"): {"flipped": 0.01},
    ("int8", "argmax"): {"flipped": 0.03, "top1_agreement": 0.85, "top10_overlap": 0.9},
    ("int8", "ramp"): {"flipped": 0.03},
}


@dataclass(frozen=True)
class Gates:
    """Limits by name; a gate that is switched off is not there.

    Attributes:
        limits: of all gates.
        asked: names of those that the user set: a figure that misses one fails the target, whatever else holds.
    """

    limits: Mapping[str, float]
    asked: frozenset[str] = frozenset()

    @property
    def wanted(self) -> frozenset[str]:
        """Those of `asked` that are not switched off: each has to be measured."""
        return self.asked & self.limits.keys()

    def check(
        self, name: str, value: float, message: str, *, limit: float | None = None
    ) -> tuple[Check, ...]:
        """The check of a figure, none where its gate is off.

        Args:
            name: in `NAMES`.
            value: that was measured.
            message: one sentence: what was measured, where it was worst.
            limit: instead of the gate's own, where few crops allow no finer one.
        """
        if name not in self.limits:
            return ()
        at_least, _ = NAMES[name]
        return (Check(name, float(value), self.limits[name] if limit is None else limit, at_least, message),)


def default_gates(target: Artefact, reference_mask: str) -> dict[str, float]:
    """What is asked where nobody asks for anything else.

    Args:
        target: whose precision and mask count.
        reference_mask: argmax on either side is argmax: its bits flip.
    """
    mask = mask_kind("argmax" if "argmax" in (target.mask, reference_mask) else target.mask)
    cosines = GATES[target.precision, mask]
    limits = _ALL | _BY_PRECISION[target.precision] | _BY_MASK.get((target.precision, mask), {})
    limits |= cosines.as_dict() | {"batch_invariance": cosines.steady}
    if target.calibration is not None and target.calibration.rest == "fp16":
        limits["preprocess_equal"] = _BY_PRECISION["fp16"]["preprocess_equal"]
    return limits


def make_gates(target: Artefact, reference_mask: str, asked: Iterable[str] = ()) -> Gates:
    """The defaults with what a user asks instead.

    Args:
        target: as in `default_gates`.
        reference_mask: likewise.
        asked: `NAME=VALUE` each; `NAME=off` switches one off.

    Raises:
        UsageError: an unknown name, a value that is no number, a name given twice, or a gate of something that the
            target does not have.
    """
    limits = default_gates(target, reference_mask)
    given = parse_gates(asked)
    wanted = {name for name, value in given.items() if value is not None}
    if wanted & _OF_MASKS and target.mask in ("none", "soft"):
        raise _unfit(wanted & _OF_MASKS, "the target's network has no sharp mask, whose bits would flip")
    if wanted & _OF_BITS and target.mask != "argmax":
        raise _unfit(wanted & _OF_BITS, f"nothing predicts flips of {target.mask}, which moves instead")
    for name, value in given.items():
        if value is None:
            limits.pop(name, None)
        else:
            limits[name] = value
    return Gates(limits, frozenset(given))


def parse_gates(asked: Iterable[str]) -> dict[str, float | None]:
    """`min_cosine=0.999`, `norm=off` -> `{"min_cosine": 0.999, "norm": None}`; UsageError as `make_gates`."""
    result: dict[str, float | None] = {}
    for text in asked:
        name, sign, given = (part.strip() for part in text.partition("="))
        if not sign:
            raise UsageError(
                f"--gate {text} is not of the form NAME=VALUE", do="for example min_cosine=0.999"
            )
        key = name.lower().replace("-", "_")
        key = _OLD_NAMES.get(key, key)
        if key not in NAMES:
            near = difflib.get_close_matches(key, NAMES, 1)
            hint = f"did you mean {near[0]}? Give" if near else "give"
            raise UsageError(f"--gate {name} is unknown", do=f"{hint} one of {', '.join(NAMES)}")
        if key in result:
            raise UsageError(f"--gate {key} is given twice", do="give it once")
        result[key] = None if given.lower() == "off" else _number(key, given)
    return result


def refuse_without_labels(asked: Iterable[str]) -> None:
    """UsageError where a gate is asked for that crops without labels cannot have."""
    wanted = {name for name, value in parse_gates(asked).items() if value is not None}
    if wanted & _OF_LABELS:
        raise _unfit(
            wanted & _OF_LABELS, "the crops have no labels that rank anybody", "give --labels FILE, or "
        )


def _unfit(names: Iterable[str], why: str, do: str = "") -> UsageError:
    return UsageError(
        f"--gate {', '.join(sorted(names))} cannot be measured", why=why, do=f"{do}leave it out"
    )


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"--gate {name}={text}: that is no number", do=f"give a number, or {name}=off")
    return value
