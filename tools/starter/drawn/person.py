"""Who is drawn: everything that stays with a person from camera to camera. Nothing here knows of pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

RGB = tuple[float, float, float]

Pattern = Literal["plain", "stripes", "pinstripes", "checks", "print", "two-tone", "quilted", "speckled"]
HairCut = Literal["bald", "short", "bob", "long", "ponytail", "curly"]
Hat = Literal["none", "cap", "beanie", "hood", "headscarf"]
LowerKind = Literal["trousers", "shorts", "skirt", "dress"]
BagKind = Literal["none", "backpack", "shoulder", "handbag"]

# Streams of random numbers are seeded by (seed, tag, index, ...): no stream moves when another is added.
PERSON_STREAM = 1

# What people wear, as sRGB in 0..1, and how often: mostly black, grey, navy and denim, with a few vivid ones.
_UPPER_COLOURS: tuple[tuple[float, RGB], ...] = (
    (34, (0.10, 0.10, 0.11)),  # black
    (13, (0.20, 0.20, 0.22)),  # charcoal
    (9, (0.42, 0.42, 0.43)),  # grey
    (4, (0.63, 0.63, 0.63)),  # light grey
    (13, (0.12, 0.15, 0.27)),  # navy
    (4, (0.24, 0.33, 0.47)),  # denim
    (8, (0.88, 0.88, 0.87)),  # white
    (5, (0.72, 0.64, 0.52)),  # beige
    (5, (0.34, 0.24, 0.17)),  # brown
    (5, (0.33, 0.34, 0.23)),  # olive
    (3, (0.38, 0.10, 0.15)),  # burgundy
    (4, (0.74, 0.13, 0.14)),  # red
    (3, (0.15, 0.30, 0.68)),  # blue
    (3, (0.56, 0.70, 0.84)),  # light blue
    (3, (0.15, 0.42, 0.26)),  # green
    (2, (0.87, 0.74, 0.22)),  # yellow
    (2, (0.88, 0.43, 0.15)),  # orange
    (3, (0.84, 0.52, 0.62)),  # pink
    (2, (0.42, 0.25, 0.52)),  # purple
    (2, (0.14, 0.47, 0.50)),  # teal
)
_LOWER_COLOURS: tuple[tuple[float, RGB], ...] = (
    (26, (0.25, 0.33, 0.47)),  # jeans
    (17, (0.14, 0.18, 0.28)),  # dark jeans
    (9, (0.52, 0.61, 0.72)),  # washed jeans
    (25, (0.09, 0.09, 0.10)),  # black
    (9, (0.28, 0.28, 0.30)),  # grey
    (4, (0.50, 0.49, 0.48)),  # light grey
    (6, (0.66, 0.57, 0.44)),  # beige
    (4, (0.30, 0.22, 0.17)),  # brown
    (3, (0.30, 0.31, 0.22)),  # olive
    (2, (0.85, 0.84, 0.81)),  # white
    (3, (0.45, 0.13, 0.18)),  # a vivid one, whose hue the jitter moves
)
_SHOE_COLOURS: tuple[tuple[float, RGB], ...] = (
    (10, (0.09, 0.09, 0.09)),
    (3, (0.27, 0.18, 0.12)),
    (5, (0.86, 0.86, 0.85)),
    (3, (0.42, 0.42, 0.43)),
    (1, (0.62, 0.14, 0.14)),
    (1, (0.20, 0.29, 0.50)),
    (1, (0.60, 0.48, 0.34)),
)
_BAG_COLOURS: tuple[tuple[float, RGB], ...] = (
    (11, (0.10, 0.10, 0.11)),
    (4, (0.33, 0.33, 0.34)),
    (4, (0.14, 0.17, 0.30)),
    (4, (0.36, 0.24, 0.15)),
    (2, (0.62, 0.50, 0.36)),
    (3, (0.70, 0.15, 0.15)),
    (2, (0.30, 0.38, 0.22)),
    (2, (0.85, 0.83, 0.79)),
    (1, (0.86, 0.48, 0.14)),
    (1, (0.20, 0.52, 0.62)),
)
_HAIR_COLOURS: tuple[tuple[float, RGB], ...] = (
    (9, (0.07, 0.06, 0.06)),
    (9, (0.16, 0.11, 0.08)),
    (5, (0.30, 0.20, 0.13)),
    (3, (0.58, 0.45, 0.29)),
    (1, (0.44, 0.20, 0.11)),
    (3, (0.58, 0.57, 0.56)),
)
_SKIN_COLOURS: tuple[tuple[float, RGB], ...] = (
    (5, (0.88, 0.70, 0.60)),
    (5, (0.80, 0.60, 0.48)),
    (3, (0.66, 0.47, 0.35)),
    (2, (0.46, 0.31, 0.23)),
    (2, (0.30, 0.20, 0.15)),
)


@dataclass(frozen=True)
class Body:
    """Proportions. Lengths are fractions of the body height, `height` is relative to the mean person."""

    height: float  # 0.88..1.12
    girth: float  # 0.85..1.3, widens everything
    shoulders: float  # half width between the shoulders, about 0.115
    hips: float  # half width of the hips, about 0.09
    legs: float  # height of the crotch, about 0.47
    stride: float  # amplitude of the thigh, radians
    arm_swing: float  # amplitude of the upper arm, radians
    elbow: float  # resting bend of the elbow, radians
    stoop: float  # forward lean of the trunk, radians
    toe_out: float  # outward turn of the feet, radians


@dataclass(frozen=True)
class Head:
    """Skin, hair and what is worn on the head."""

    skin: RGB
    hair: RGB
    cut: HairCut
    hat: Hat
    hat_colour: RGB
    beard: float  # 0 none .. 1 full
    glasses: bool
    scarf: bool
    scarf_colour: RGB


@dataclass(frozen=True)
class Upper:
    """The upper garment, worn over an inner one that shows at the collar and where the front is open."""

    colour: RGB
    second: RGB  # the other colour of the pattern
    pattern: Pattern
    scale: float  # size of the pattern, 1 is usual
    sleeve: float  # 0 none, 0.4 short, 1 to the wrist
    sleeve_second: bool  # sleeves in the second colour
    hem: float  # height of the hem, 0.3 (coat) .. 0.55 (short jacket)
    loose: float  # how far the cloth stands off the body, fraction of the body height
    flare: float  # widening towards the hem
    opening: float  # half angle of the open front, radians; 0 is closed
    collar: float  # depth of the neckline, fraction of the body height
    inner: RGB
    weave: float  # contrast of the folds and the fabric


@dataclass(frozen=True)
class Lower:
    """The lower garment. A dress is a skirt in the colours of the upper garment."""

    kind: LowerKind
    colour: RGB
    hem: float  # height of the hem, fraction of the body height
    fit: float  # 0.75 tight .. 1.4 wide
    fade: float  # how much lighter the front of the thighs is: washed jeans
    stripe: bool  # a stripe along the outer seam
    stockings: RGB | None  # what shows below shorts and skirts; None is bare skin


@dataclass(frozen=True)
class Shoes:
    """Shoes with their sole; `shaft` is the height of a boot."""

    colour: RGB
    sole: RGB
    shaft: float


@dataclass(frozen=True)
class Bag:
    """A bag, if any. `side` is +1 for the wearer's left, -1 for the right."""

    kind: BagKind
    colour: RGB
    second: RGB
    side: int
    size: float


@dataclass(frozen=True)
class Person:
    """Everything that identifies a drawn person. `grain` seeds the folds and prints of the clothes."""

    body: Body
    head: Head
    upper: Upper
    lower: Lower
    shoes: Shoes
    bag: Bag
    grain: int


def draw_person(seed: int, index: int = 0) -> Person:
    """Draw a person. The same `seed` and `index` always give the same person.

    Args:
        seed: seed of the population, 0 or more.
        index: number of the person within the population, 0 or more.

    Returns:
        the person, independent of every other index.
    """
    rng = np.random.default_rng([PERSON_STREAM, seed, index])
    woman = rng.random() < 0.48
    warm = rng.random() < 0.35  # dressed for warm weather
    upper = _draw_upper(rng, warm=warm)
    lower = _draw_lower(rng, woman=woman, warm=warm)
    if lower.kind == "dress":
        # A dress is one garment: it must not end at the waist, be open or stand off at the hip.
        upper = replace(upper, hem=0.5, opening=0.0, loose=0.0, flare=0.0)
    return Person(
        body=_draw_body(rng, woman=woman),
        head=_draw_head(rng, woman=woman, warm=warm),
        upper=upper,
        lower=lower,
        shoes=_draw_shoes(rng, woman=woman, warm=warm),
        bag=_draw_bag(rng, woman=woman),
        grain=int(rng.integers(1 << 30)),
    )


def _draw_body(rng: np.random.Generator, *, woman: bool) -> Body:
    return Body(
        height=float(np.clip(rng.normal(0.96 if woman else 1.03, 0.045), 0.86, 1.14)),
        girth=float(np.clip(rng.normal(1.04, 0.11), 0.84, 1.4)),
        shoulders=float(rng.normal(0.104 if woman else 0.117, 0.006)),
        hips=float(rng.normal(0.094 if woman else 0.087, 0.005)),
        legs=float(rng.normal(0.475, 0.012)),
        stride=float(np.clip(rng.normal(0.33, 0.06), 0.18, 0.47)),
        arm_swing=float(np.clip(rng.normal(0.25, 0.11), 0.03, 0.55)),
        elbow=float(np.clip(rng.normal(0.22, 0.13), 0.04, 0.7)),
        stoop=float(np.clip(rng.normal(0.05, 0.04), -0.03, 0.17)),
        toe_out=float(rng.normal(0.15, 0.1)),
    )


def _draw_head(rng: np.random.Generator, *, woman: bool, warm: bool) -> Head:
    cuts: tuple[HairCut, ...] = ("bald", "short", "bob", "long", "ponytail", "curly")
    cut = _choose(rng, cuts, (0, 1.5, 2.5, 4.5, 2.5, 1) if woman else (1, 7, 0.6, 0.5, 0.3, 0.8))
    hats: tuple[Hat, ...] = ("none", "cap", "beanie", "hood", "headscarf")
    hat_weights = (20, 1.5, 0.2 if warm else 2, 0.3 if warm else 2, 1 if woman else 0)
    return Head(
        skin=_colour(rng, _SKIN_COLOURS, 0.02, vivid=False),
        hair=_colour(rng, _HAIR_COLOURS, 0.02, vivid=False),
        cut=cut,
        hat=_choose(rng, hats, hat_weights),
        hat_colour=_colour(rng, _UPPER_COLOURS, 0.04),
        beard=0.0 if woman or rng.random() < 0.65 else float(rng.uniform(0.3, 1.0)),
        glasses=bool(rng.random() < 0.2),
        scarf=bool(rng.random() < (0.02 if warm else 0.16)),
        scarf_colour=_colour(rng, _UPPER_COLOURS, 0.05),
    )


def _draw_upper(rng: np.random.Generator, *, warm: bool) -> Upper:
    colour = _colour(rng, _UPPER_COLOURS, 0.04)
    second = _contrasting(rng, colour)
    patterns: tuple[Pattern, ...] = (
        "plain", "stripes", "pinstripes", "checks", "print", "two-tone", "quilted", "speckled",
    )  # fmt: skip
    pattern = _choose(rng, patterns, (17, 1.6, 0.6, 1.3, 3.4, 1.8, 0.0 if warm else 1.8, 0.7))
    coat = not warm and rng.random() < 0.2
    is_open = not coat and not warm and rng.random() < 0.33
    sleeves = (0.12, 0.42, 0.7, 1.0)
    sleeve = _choose(rng, sleeves, (1.3, 6, 0.7, 2) if warm else (0, 0.3, 0.2, 14))
    return Upper(
        colour=colour,
        second=second,
        pattern=pattern,
        scale=float(rng.uniform(0.65, 1.6)),
        sleeve=float(np.clip(sleeve + rng.normal(0, 0.03), 0.0, 1.0)),
        sleeve_second=bool(rng.random() < 0.08),
        hem=float(rng.uniform(0.27, 0.44) if coat else np.clip(rng.normal(0.485, 0.022), 0.43, 0.54)),
        loose=float(rng.uniform(0.0, 0.006) if warm else rng.uniform(0.002, 0.017)),
        flare=float(rng.uniform(0.0, 0.03) if coat else rng.uniform(-0.004, 0.012)),
        opening=float(rng.uniform(0.2, 0.65)) if is_open else 0.0,
        collar=float(rng.choice([0.0, 0.012, 0.03, 0.06], p=[0.3, 0.35, 0.2, 0.15])),
        inner=_contrasting(rng, colour),
        weave=float(rng.uniform(0.4, 1.2)),
    )


def _draw_lower(rng: np.random.Generator, *, woman: bool, warm: bool) -> Lower:
    kinds: tuple[LowerKind, ...] = ("trousers", "shorts", "skirt", "dress")
    weights = (10, 1.5 if warm else 0, 1.6 if woman else 0, (2.5 if warm else 1) if woman else 0)
    kind = _choose(rng, kinds, weights)
    hem = {
        "trousers": 0.02 if rng.random() < 0.85 else rng.uniform(0.06, 0.2),
        "shorts": rng.uniform(0.26, 0.36),
        "skirt": rng.uniform(0.12, 0.36),
        "dress": rng.uniform(0.12, 0.36),
    }[kind]
    bare = warm or rng.random() < 0.25
    return Lower(
        kind=kind,
        colour=_colour(rng, _LOWER_COLOURS, 0.035),
        hem=float(hem),
        fit=float(rng.uniform(0.78, 1.05) if woman else rng.uniform(0.92, 1.35)),
        fade=float(rng.uniform(0.0, 0.3) if rng.random() < 0.5 else 0.0),
        stripe=bool(rng.random() < 0.04),
        stockings=None if bare else (0.09, 0.09, 0.10),
    )


def _draw_shoes(rng: np.random.Generator, *, woman: bool, warm: bool) -> Shoes:
    colour = _colour(rng, _SHOE_COLOURS, 0.03)
    white_sole = rng.random() < 0.35
    booted = rng.random() < (0.02 if warm else 0.25 if woman else 0.06)
    return Shoes(
        colour=colour,
        sole=(0.85, 0.85, 0.83) if white_sole else (0.10, 0.10, 0.10),
        shaft=float(rng.uniform(0.08, 0.24)) if booted else 0.0,
    )


def _draw_bag(rng: np.random.Generator, *, woman: bool) -> Bag:
    kinds: tuple[BagKind, ...] = ("none", "backpack", "shoulder", "handbag")
    colour = _colour(rng, _BAG_COLOURS, 0.04)
    return Bag(
        kind=_choose(rng, kinds, (4, 1.6, 2.2, 2.2) if woman else (5.5, 2.3, 1.5, 0.9)),
        colour=colour,
        second=_contrasting(rng, colour) if rng.random() < 0.25 else colour,
        side=1 if rng.random() < 0.5 else -1,
        size=float(rng.uniform(0.65, 1.2)),
    )


def _choose(rng: np.random.Generator, options: tuple, weights: tuple[float, ...]):  # type: ignore[no-untyped-def]
    chances = np.asarray(weights, dtype=np.float64)
    return options[int(rng.choice(len(options), p=chances / chances.sum()))]


def _colour(
    rng: np.random.Generator, palette: tuple[tuple[float, RGB], ...], spread: float, *, vivid: bool = True
) -> RGB:
    """A colour of the palette, moved a little: no two black jackets are the same black."""
    weights = np.array([weight for weight, _ in palette])
    base = np.array(palette[int(rng.choice(len(palette), p=weights / weights.sum()))][1])
    if vivid and base.max() - base.min() > 0.25:  # a vivid colour may also turn its hue
        base = np.clip(base + rng.normal(0, 0.07, 3), 0.03, 0.95)
    base = base * np.exp(rng.normal(0, 0.16)) + rng.normal(0, spread * 0.5, 3)
    red, green, blue = np.clip(base, 0.045, 0.95)
    return float(red), float(green), float(blue)


def _contrasting(rng: np.random.Generator, colour: RGB) -> RGB:
    """A colour that can be told from `colour`."""
    best = colour
    for _ in range(6):
        best = _colour(rng, _UPPER_COLOURS, 0.05)
        if max(abs(a - b) for a, b in zip(best, colour, strict=True)) > 0.25:
            break
    return best
