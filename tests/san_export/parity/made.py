"""ParityRuns that tests make up: figures as a run gives them, pictures of drawn people."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from san_export.parity.result import (
    STAGES,
    ArtefactFigures,
    BatchRows,
    BlockFlips,
    Check,
    CropMasks,
    EmbeddingFigures,
    LayerError,
    LayerFigures,
    MaskFigures,
    ParityRun,
    PreprocessingFigures,
    RankingFigures,
    Stage,
)
from san_export.verify import sample_crops

SIZE_HW = (128, 64)
#: Channels, height, width of the masks of a half-width ResNet-18 at that size.
SHAPES = ((32, 32, 16), (64, 16, 8), (128, 8, 4), (256, 4, 2))
_RUN = {"runtime": "ONNX Runtime 1.31.1 on the CPU", "mask": "argmax"}
REFERENCE = {"file": "runs/first/starter.onnx", **_RUN, "precision": "FP32"}
TARGET = {"file": "runs/first/starter-fp16.onnx", **_RUN, "precision": "FP16"}


@functools.cache
def images(count: int) -> np.ndarray:
    """Drawn people, `(count, 128, 64, 3)` uint8 BGR."""
    return sample_crops(SIZE_HW, count).images


def artefact(*, precision: str = "fp16") -> Stage:
    found = (
        ("precision", "FP16", precision.upper(), precision == "fp16"),
        ("input", "128 x 64, uint8", "128 x 64, uint8", True),
        ("embedding", "512", "512", True),
        ("weights, SHA-256", "0f3a91c2d4e5", "0f3a91c2d4e5", True),
    )
    agree = sum(fact[3] for fact in found)
    told = f"{agree} of {len(found)} facts agree"
    check = Check("artefact", float(len(found) - agree), 0.0, False, told)
    return Stage("artefact", ArtefactFigures(found), (check,), seconds=0.021)


def preprocessing(*, differ: int = 0) -> Stage:
    figures = PreprocessingFigures(
        48, differ, 0.017 * bool(differ), 1.0 if not differ else 0.93, "cam1/t1/3.jpg"
    )
    if not differ:
        figures = replace(figures, worst="")
    check = Check("preprocess_equal", float(differ), 0.0, False, f"{differ} values differ on 48 crops")
    return Stage("preprocessing", figures, (check,), seconds=0.31)


def embeddings(
    *, crops: int = 1000, gate: float = 0.999, spread: float = 2e-7, outliers: int = 7, seed: int = 0
) -> Stage:
    """Rows that agree up to rounding, and `outliers` whose flipped bits multiplied."""
    rng = np.random.default_rng(seed)
    away = spread * rng.chisquare(4, crops)
    away[:outliers] = 10.0 ** rng.uniform(-5, -1.9, min(outliers, crops))
    cosine = 1.0 - away
    names = tuple(f"cam{k % 3 + 1}/t{k // 8:03d}/{k:04d}.jpg" for k in range(crops))
    order = np.argsort(cosine, kind="stable")[:5]
    least, first, mean = float(cosine.min()), float(np.percentile(cosine, 1)), float(cosine.mean())
    batches = tuple(
        BatchRows(size, why, crops, least, first, mean, float(np.sqrt(1 - least) / 8))
        for size, why in (
            (1, "one"),
            (7, "odd"),
            (16, "optimum"),
            (64, "maximum"),
            (65, "over the maximum"),
        )
    )
    figures = EmbeddingFigures(
        batches,
        invariance=1.0 - 6e-8,
        not_finite=0,
        norm_error=2.4e-7,
        equal_rows=float((cosine >= 0.99999).mean()),
        worst=tuple((names[k], float(cosine[k])) for k in order),
        cosine=cosine,
        names=names,
    )
    checks = (
        Check("min_cosine", least, gate, True, f"least row cosine at batch 16, of {names[order[0]]}"),
        Check("mean_cosine", mean, 0.998, True, "mean row cosine, least at batch 16"),
        Check("batch_invariance", figures.invariance, 0.99999, True, "a crop's row alone and among others"),
        Check("finite", 0.0, 0.0, False, "no row has a NaN or an infinity"),
    )
    return Stage("embeddings", figures, checks, seconds=12.8)


def block(
    name: str, shape: tuple[int, int, int], *, crops: int, flips: float, rng: np.random.Generator
) -> BlockFlips:
    """One block with a share `flips` of its bits flipped, most of them near the upper edge."""
    channels, height, width = shape
    bits = channels * height * width * crops
    places = np.linspace(2.0, 0.4, height)[:, None] * rng.uniform(0.3, 1.7, (height, width))
    by_place = rng.poisson(flips * bits * places / places.sum()).astype(np.int64)
    flipped = int(by_place.sum())
    weights = rng.exponential(1.0, channels) ** 2
    by_channel = rng.multinomial(flipped, weights / weights.sum()).astype(np.int64)
    margins = rng.gamma(3.0, 1.0, 20) * np.linspace(0.3, 1.6, 20)
    worst = np.argsort(-by_place, axis=None, kind="stable")[:5]
    return BlockFlips(
        name=name,
        channels=channels,
        height=height,
        width=width,
        bits=bits,
        flipped=flipped,
        predicted=flipped * 0.83,
        own=round(flipped * 0.4),
        mean_abs=flipped / bits,
        rounding=max(flips, 1e-6) * 0.4,
        margins=margins / margins.sum(),
        near=(flips * 2.2, flips * 19.0),
        by_channel=by_channel,
        by_place=by_place,
        worst_channels=tuple(
            (int(c), int(by_channel[c])) for c in np.argsort(-by_channel, kind="stable")[:5]
        ),
        worst_places=tuple((int(k) // width, int(k) % width, int(by_place.flat[k])) for k in worst),
    )


def crop(number: int, shapes: Sequence[tuple[int, int, int]], rng: np.random.Generator) -> CropMasks:
    """Masks that look at the middle of the crop, a few bits of them flipped."""
    reference, target, flips = [], [], []
    for channels, height, width in shapes:
        y, x = np.mgrid[:height, :width]
        near = np.exp(-(((y - height / 2) / height) ** 2 * 4 + ((x - width / 2) / width) ** 2 * 9))
        mean = np.clip(0.2 + 0.5 * near + rng.normal(0, 0.05, near.shape), 0, 1).astype(np.float32)
        turned = rng.poisson(0.04 * channels / 32, near.shape).astype(np.int64)
        sign = rng.choice([-1.0, 1.0], near.shape)
        reference.append(mean)
        target.append(np.clip(mean + sign * turned / channels, 0, 1).astype(np.float32))
        flips.append(turned)
    return CropMasks(
        f"cam1/t00{number}/0001.jpg",
        0.9871 + 0.001 * number,
        images(number + 1)[number],
        tuple(reference),
        tuple(target),
        tuple(flips),
    )


def masks(
    *,
    mask: str = "argmax",
    names: Sequence[str] = ("stage1", "stage2", "stage3", "stage4"),
    crops: int = 1000,
    shown: int = 4,
    gate: float = 0.01,
) -> Stage:
    rng = np.random.default_rng(1)
    shapes = [SHAPES[k % len(SHAPES)] for k in range(len(names))]
    flips = 10.0 ** np.linspace(-4.2, -2.4, max(1, len(names)))
    blocks = tuple(
        block(name, shape, crops=crops, flips=float(rate), rng=rng)
        for name, shape, rate in zip(names, shapes, flips, strict=False)
    )
    figures = MaskFigures(
        mask,
        blocks,
        tuple(crop(k, shapes, rng) for k in range(shown)),
    )
    most = max((item.flipped / item.bits for item in blocks), default=0.0)
    return Stage(
        "masks",
        figures,
        (Check("flipped", most, gate, False, "largest share of a block's bits"),) if blocks else (),
        notes=("Masks come from a diagnostic copy of the graph, not from the file that is deployed.",),
        seconds=41.5,
    )


def layers(count: int = 50, *, first: int | None = None, detail: str = "") -> Stage:
    """`count` layers; from `first` on they differ by more than rounding."""
    rng = np.random.default_rng(2)
    found = []
    for k in range(count):
        operator = ("Conv", "Relu", "Add", "Mul", "ReduceMax")[k % 5]
        allowed = 1e-3
        local = allowed * 10.0 ** rng.uniform(-1.2, -0.2)
        carried = local * (1 + 0.12 * k)
        if first is not None and k >= first:
            local = 0.2 * float(rng.uniform(0.8, 1.2)) if k == first else local
            carried = 0.2 * 1.01 ** (k - first)
        module = f"backbone.layer{4 * k // count + 1}.{k % 3}.conv{k % 2 + 1}" if k < count - 4 else ""
        found.append(LayerError(f"/{operator}_{k}_output_0", operator, module, local, carried, allowed))
    figures = LayerFigures(tuple(found), None if first is None else found[first], detail, crops=8)
    apart = float(sum(layer.differs for layer in found))
    check = Check("layers", apart, 0.0, False, "layers that differ by more than rounding explains")
    return Stage("layers", figures, (check,), seconds=9.2)


def ranking(*, labelled: bool = True, drop: float = 0.04) -> Stage:
    before = {"rank1": 89.5, "mean_ap": 73.6, "mean_inp": 41.2}
    after = {key: value - drop for key, value in before.items()}
    figures = RankingFigures(
        labelled=labelled,
        queries=480,
        people=40,
        reference=before if labelled else {},
        target=after if labelled else {},
        interval={key: (drop - 0.02, drop + 0.02) for key in before} if labelled else {},
        won=1,
        lost=3,
        noise=2e-4,
        top1_agreement=0.996,
        top10_overlap=0.981,
        ties=2,
    )
    checks = [Check("top1_agreement", 0.996, 0.99, True, "crops with the same nearest neighbour")]
    if labelled:
        checks.insert(0, Check("rank1_drop", drop, 0.1, False, "points of rank-1 lost"))
    return Stage("ranking", figures, tuple(checks), seconds=0.9)


def skipped(name: str, why: str = "the target is an engine, which has no layers to look into") -> Stage:
    return Stage(name, None, skipped=why)


def run(*changed: Stage, crops: int = 1000) -> ParityRun:
    """A run that holds, with these stages instead of its own."""
    own = {stage.name: stage for stage in changed}
    makers = dict(zip(STAGES, (artefact, embeddings, ranking, preprocessing, masks, layers), strict=True))
    stages = tuple(own[name] if name in own else _holding(name, makers) for name in STAGES)
    return ParityRun(dict(REFERENCE), dict(TARGET), crops, "WARD, test people", stages)


def _holding(name: str, makers: dict) -> Stage:  # type: ignore[type-arg]
    return makers[name](outliers=0) if name == "embeddings" else makers[name]()


def failing() -> ParityRun:
    """What a flipped mask comparison, FP16 and an unlucky file give together."""
    return run(
        artefact(precision="fp32"),
        embeddings(),
        masks(gate=0.001),
        layers(first=31, detail="the operator is Less, the reference's is Greater"),
        ranking(drop=0.62),
    )


def all_skipped() -> ParityRun:
    return run(*(skipped(name) for name in STAGES))


def broken() -> ParityRun:
    """NaN wherever a figure can be one: a target that gives nothing but NaN."""
    nan = float("nan")
    stage = embeddings(crops=3, outliers=0)
    assert isinstance(stage.figures, EmbeddingFigures)
    rows = tuple(
        replace(row, min_cosine=nan, p1_cosine=nan, mean_cosine=nan, max_abs=nan)
        for row in stage.figures.batches
    )
    figures = replace(
        stage.figures,
        batches=rows,
        invariance=nan,
        not_finite=3,
        norm_error=nan,
        equal_rows=0.0,
        worst=tuple((name, nan) for name, _ in stage.figures.worst),
        cosine=np.full(3, nan),
    )
    stage = replace(stage, figures=figures, checks=tuple(replace(check, value=nan) for check in stage.checks))
    flips = masks(shown=1, crops=1)
    assert isinstance(flips.figures, MaskFigures)
    blocks = tuple(
        replace(item, predicted=nan, mean_abs=nan, rounding=nan, margins=np.full(20, nan), near=(nan, nan))
        for item in flips.figures.blocks
    )
    shown = tuple(
        replace(item, cosine=nan, target=tuple(np.full_like(mask, nan) for mask in item.target))
        for item in flips.figures.crops
    )
    flips = replace(flips, figures=replace(flips.figures, blocks=blocks, crops=shown))
    inner = layers(12, first=3)
    assert isinstance(inner.figures, LayerFigures)
    odd = tuple(
        replace(item, local=nan if k > 2 else 0.0, carried=nan if k > 5 else item.carried)
        for k, item in enumerate(inner.figures.layers)
    )
    odd = (*odd[:-1], replace(odd[-1], local=float("inf"), allowed=nan))
    inner = replace(inner, figures=replace(inner.figures, layers=odd, first=odd[3]))
    return run(preprocessing(differ=17), stage, flips, inner, ranking(drop=nan), crops=3)


def with_names(names: Iterable[str]) -> ParityRun:
    """A failing run whose files, crops, layers and blocks have these names."""
    file, crop_name, layer_name, block_name = names
    stage = embeddings(crops=3, outliers=3)
    assert isinstance(stage.figures, EmbeddingFigures)
    worst = tuple((crop_name, value) for _, value in stage.figures.worst)
    stage = replace(
        stage,
        figures=replace(stage.figures, worst=worst),
        checks=(replace(stage.checks[0], message=f"of {crop_name}"), *stage.checks[1:]),
        notes=(crop_name,),
    )
    inner = layers(5, first=2, detail=layer_name)
    assert isinstance(inner.figures, LayerFigures)
    odd = tuple(replace(item, name=layer_name, module=layer_name) for item in inner.figures.layers)
    inner = replace(inner, figures=replace(inner.figures, layers=odd, first=odd[2]))
    flips = masks(names=[block_name], shown=1, crops=3)
    assert isinstance(flips.figures, MaskFigures)
    flips = replace(
        flips,
        figures=replace(flips.figures, crops=tuple(replace(c, name=crop_name) for c in flips.figures.crops)),
    )
    made = run(stage, inner, flips, crops=3)
    return replace(made, target={**made.target, "file": file}, reference={**made.reference, "file": file})
