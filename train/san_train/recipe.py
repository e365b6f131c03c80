"""Everything that steers a training run: recipes by architecture, every value of which can be overridden."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from san_deploy.artefact import parse_mask
from san_deploy.errors import UsageError
from san_deploy.io.typed_json import read_record

from .augment import Augmentation
from .distill import settings as distilling
from .distill.settings import DistillSettings, ViewSettings
from .models import architecture


@dataclass(frozen=True)
class Recipe:
    """A resolved training configuration.

    Attributes:
        arch, settings: the network, see `models.ARCHITECTURES`.
        num_ids, num_instances: P and K of a batch: so many identities, so many crops of each.
        epochs: of the whole run.
        steps: batches per epoch; 0 takes as many as draw each crop once on average.
        lr, weight_decay: of Adam. The recipes decay weights as Adam's L2 (`adam`) or apart from it (`adamw`).
        optimizer: `adam` or `adamw`.
        schedule: `hermans` (constant, then exponential to 0.001 of it: arXiv 1703.07737) or `cosine`.
        decay_from: where `hermans` starts to decay, as a part of all epochs.
        decay_beta1: Adam's beta_1 from there on (0.9 before); 0 leaves it. Hermans et al. take 0.5.
        warmup: epochs over which lr rises from a hundredth of itself.
        margin, triplet_weight: of the batch-hard triplet loss; `triplet_unit` measures it on unit rows.
        identity_weight, smoothing: of the identity loss on the neck; 0 switches it off. `logit_scale` > 0
            compares unit rows with unit class centres (cosine) times it, instead of a linear layer. Where a
            network has several heads, this loss and the triplet loss are means over them.
        tv_weight: mu of eq. 8, on the masked features of networks that show them. `tv_reduction` `sum` is the
            paper's eq. 6; `mean` divides by the number of elements, so that mu means the same for each stage
            and size.
        mask: training mask of `attention.MaskMode`.
        tau_rate, tau_floor: of eq. 9.
        hard_mask_epochs: the last epochs of a run train with `hard_mask_kind` instead, at `hard_mask_lr` of
            the schedule's lr.
        hard_mask_kind: training mask of that phase.
        hard_mask_tau: temperature of that phase; 0 leaves it to eq. 9.
        mask_margin_weight, mask_margin_width: weight of `attention.mask_margin_loss` in that phase, and its width.
        deploy_mask: that the recipe recommends to deploy a sharp network with: `argmax`, `ramp:EPS` or
            `expected`. `san info` says it; validation and `san export` use argmax where nobody asks for another.
        ema: decay of an average of the weights that is validated and saved; 0 is off.
        augmentation: see `augment.Augmentation`.
        distilled: learn a teacher's answers to views of the crops (`san train --teacher`); the sampler of people,
            and the losses that need it, are then left out.
        distill, views: see `distill.settings`.
        share: part of each batch's people from each data set, in order; empty draws over all alike.
        clip: limit on the norm of the gradient; 0 is off.
        seed: of everything.
        validate_every: epochs between validations.
        validation_people: people of `train` held out for validation where the data has no `val` split.
    """

    arch: str = "san"
    settings: dict[str, Any] = field(default_factory=dict)
    num_ids: int = 64
    num_instances: int = 4
    epochs: int = 150
    steps: int = 0
    lr: float = 2e-4
    weight_decay: float = 5e-4
    optimizer: str = "adam"
    schedule: str = "hermans"
    decay_from: float = 0.6
    decay_beta1: float = 0.0
    warmup: float = 0.0
    margin: float = 0.5
    triplet_weight: float = 1.0
    triplet_unit: bool = False
    identity_weight: float = 0.0
    smoothing: float = 0.1
    logit_scale: float = 0.0
    tv_weight: float = 0.0
    tv_reduction: str = "mean"
    mask: str = "sample"
    tau_rate: float = 0.008
    tau_floor: float = 0.5
    hard_mask_epochs: int = 0
    hard_mask_kind: str = "straight-through"
    hard_mask_lr: float = 1.0
    hard_mask_tau: float = 0.0
    mask_margin_weight: float = 0.0
    mask_margin_width: float = 0.1
    deploy_mask: str = "argmax"
    ema: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    distilled: bool = False
    distill: DistillSettings = field(default_factory=DistillSettings)
    views: ViewSettings = field(default_factory=ViewSettings)
    share: tuple[float, ...] = ()
    clip: float = 0.0
    seed: int = 0
    validate_every: int = 10
    validation_people: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """Learning rate at a fractional epoch, 0 <= epoch <= recipe.epochs.

    `hermans` (arXiv 1703.07737, eq. 7): lr up to t0, then lr * 0.001 ** ((t - t0) / (t1 - t0)).
    """
    if epoch < recipe.warmup:
        return recipe.lr * (0.01 + 0.99 * epoch / recipe.warmup)
    if recipe.schedule == "cosine":
        span = max(recipe.epochs - recipe.warmup, 1e-9)
        rate = recipe.lr * (
            0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(1.0, (epoch - recipe.warmup) / span)))
        )
    else:
        start = recipe.decay_from * recipe.epochs
        part = max(0.0, epoch - start) / max(recipe.epochs - start, 1e-9)
        rate = recipe.lr * 0.001 ** min(1.0, part)
    if epoch >= recipe.epochs - recipe.hard_mask_epochs:
        rate *= recipe.hard_mask_lr
    return rate


#: What the architectures share; each changes it in its `RECIPES`. `paper`: as published, from ImageNet weights
#: where it takes them. `scratch`: without them and on little data. One of another name starts from `paper`.
RECIPES: dict[str, Recipe] = {
    "paper": Recipe(),
    "scratch": Recipe(
        num_ids=16,
        epochs=60,
        lr=1e-3,
        optimizer="adamw",
        weight_decay=0.05,
        schedule="cosine",
        warmup=3.0,
        margin=0.3,
        identity_weight=1.0,
        clip=5.0,
        augmentation=Augmentation(area=(0.7, 1.0), tone=1.0, saturation=0.5, erase=0.5, blur=0.1),
    ),
    # The views are cut and flipped before the teacher sees them; what follows here it does not see.
    "distill": Recipe(
        distilled=True,
        epochs=20,
        lr=1e-3,
        optimizer="adamw",
        weight_decay=0.05,
        schedule="cosine",
        warmup=0.5,
        triplet_weight=0.0,
        clip=5.0,
        ema=0.995,
        augmentation=Augmentation(
            area=(1.0, 1.0),
            flip=0.0,
            tone=1.0,
            saturation=0.5,
            erase=0.3,
            erase_area=(0.02, 0.2),
            blur=0.15,
            kernels=0.5,
            crosstalk=0.05,
            haze=0.25,
            grain=8.0,
        ),
    ),
}
#: What steers sharp masks, and means nothing to a network that has none.
_OF_SHARP_MASKS = (
    "mask",
    "tau_rate",
    "tau_floor",
    "hard_mask_epochs",
    "hard_mask_kind",
    "hard_mask_lr",
    "hard_mask_tau",
    "mask_margin_weight",
    "mask_margin_width",
    "deploy_mask",
)


#: Spellings of before, by which files of runs and `--set` still name a value.
OLD_NAMES = {
    "people": "num_ids",
    "crops_each": "num_instances",
    "sharpen_epochs": "hard_mask_epochs",
    "sharpen_mask": "hard_mask_kind",
    "sharpen_lr": "hard_mask_lr",
    "sharpen_tau": "hard_mask_tau",
    "decisive_weight": "mask_margin_weight",
    "decisive_width": "mask_margin_width",
}

#: Parts of a recipe that are records of their own.
_PARTS: dict[str, Any] = {"augmentation": Augmentation, "distill": DistillSettings, "views": ViewSettings}


def resolve(
    name: str,
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
    *,
    arch: str | None = None,
) -> Recipe:
    """An architecture's recipe by name, with overrides.

    Args:
        name: of the recipe: one that the architecture has.
        overrides: `key=value`, dotted for nested ones (`settings.width=0.5`, `augmentation.tone=1`);
            values are JSON, or text where they are none.
        values: the same as `{dotted key: value}`, applied last.
        arch: the architecture; None is what the overrides say, else `san`.

    Raises:
        UsageError: an unknown architecture, recipe or key, a value of another type, or two architectures.
    """
    pairs = _pairs(overrides, values)
    named = {key for key, _ in pairs}
    base = _base(name, _one_arch(arch, [value for key, value in pairs if key == "arch"]))
    recipe = base
    for key, value in pairs:
        recipe = _set(recipe, key, value)
    if "epochs" in named and "hard_mask_epochs" not in named:
        # A shorter run has a shorter last phase, not none before it.
        part = base.hard_mask_epochs / base.epochs
        recipe = replace(recipe, hard_mask_epochs=round(part * recipe.epochs))
    check(recipe)
    _refuse_idle(recipe, base, named)
    return recipe


def override(recipe: Recipe, overrides: Sequence[str], values: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe with overrides, as `resolve` takes them, not yet checked (`check`).

    Raises:
        UsageError: an unknown key, or a value of another type.
    """
    for key, value in _pairs(overrides, values):
        recipe = _set(recipe, key, value)
    return recipe


def _pairs(overrides: Sequence[str], values: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    """`KEY=VALUE` texts and values as pairs, by today's names."""
    pairs: list[tuple[str, Any]] = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"'{text}' is no KEY=VALUE")
        pairs.append((key.strip(), _value(value)))
    pairs += list((values or {}).items())
    return [(OLD_NAMES.get(key, key), value) for key, value in pairs]


#: Numbers as people write them and JSON does not: `.5`, `5.`, `+3`.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def _value(text: str) -> Any:
    """JSON, a number, or else text. NaN and infinity, which Python's JSON takes, are no numbers here."""

    def refuse(word: str) -> Any:
        raise ValueError(word)

    try:
        return json.loads(text, parse_constant=refuse)
    except ValueError:
        pass
    if _NUMBER.fullmatch(text.strip()):
        return float(text) if re.search(r"[.eE]", text) else int(text)
    return text


#: Values that do nothing where another one is off: `(the other, what it is then, the values)`.
_IDLE: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    ("identity_weight", 0.0, ("smoothing",)),
    ("tv_weight", 0.0, ("tv_reduction",)),
    ("schedule", "cosine", ("decay_from", "decay_beta1")),
    (
        "hard_mask_epochs",
        0,
        ("hard_mask_kind", "hard_mask_lr", "hard_mask_tau", "mask_margin_weight", "mask_margin_width"),
    ),
)


def _refuse_idle(recipe: Recipe, base: Recipe, named: Collection[str]) -> None:
    """Raise UsageError where somebody asked for a value that nothing reads."""
    for key, off, values in _IDLE:
        if getattr(recipe, key) != off:
            continue
        for name in values:
            value = getattr(recipe, name)
            # To switch off what is off already is no mistake.
            if name in named and value and value != getattr(base, name):
                raise UsageError(
                    f"{name} has no effect",
                    why=f"{key} is {off}",
                    do=f"leave it out, or set {key} too",
                )


def _one_arch(asked: str | None, overrides: Sequence[Any]) -> str:
    """The architecture that the option and the overrides agree on."""
    names = list(dict.fromkeys([*([] if asked is None else [asked]), *overrides]))
    if len(names) > 1:
        raise UsageError(
            f"the architecture is {' and '.join(str(name) for name in names)}", do="give one, as --arch NAME"
        )
    return str(names[0]) if names else Recipe.arch


def _base(name: str, arch: str) -> Recipe:
    """A recipe as the architecture changes it."""
    try:
        changes = architecture(arch).recipes
    except ValueError as error:
        raise UsageError(str(error)) from error
    if name not in changes:
        raise UsageError(f"recipe '{name}' is none of {', '.join(changes)}, which {arch} has")
    recipe = replace(RECIPES.get(name, RECIPES["paper"]), arch=arch)
    for key, value in changes[name].items():
        recipe = _set(recipe, key, value)
    return recipe


def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's plain data with today's names, whichever version wrote it."""
    return {OLD_NAMES.get(key, key): value for key, value in values.items()}


def from_dict(values: Mapping[str, Any]) -> Recipe:
    """The inverse of `Recipe.as_dict`, after JSON, and of what earlier versions wrote.

    Raises:
        ValueError: a value is missing or not of its type, or not one of this version's.
    """
    values = renamed(values)
    unknown = sorted(set(values) - {item.name for item in fields(Recipe)})
    if unknown:
        raise ValueError(f"'{unknown[0]}' is no setting of a recipe")
    return read_record(Recipe, values)


def check(recipe: Recipe) -> None:
    """Raise UsageError where values contradict each other, before anything long starts."""
    try:
        registered = architecture(recipe.arch)
    except ValueError as error:
        raise UsageError(str(error)) from error
    choices = {
        "optimizer": ("adam", "adamw"),
        "schedule": ("hermans", "cosine"),
        "tv_reduction": ("sum", "mean"),
        "mask": ("sample", "sample-hard", "straight-through", "expected"),
        "hard_mask_kind": ("sample", "sample-hard", "straight-through", "expected"),
    }
    for key, allowed in choices.items():
        if getattr(recipe, key) not in allowed:
            raise UsageError(f"{key} is one of {', '.join(allowed)}; received '{getattr(recipe, key)}'")
    for key in ("num_ids", "num_instances"):
        if getattr(recipe, key) < 2:
            raise UsageError(
                f"{key} is at least 2; received {getattr(recipe, key)}",
                why="a triplet needs two people and two crops of one",
            )
    for key, least in (("epochs", 1), ("validate_every", 1), ("hard_mask_epochs", 0)):
        if getattr(recipe, key) < least:
            raise UsageError(f"{key} is at least {least}; received {getattr(recipe, key)}")
    if recipe.lr <= 0:
        raise UsageError(f"lr is above 0; received {recipe.lr:g}")
    if recipe.hard_mask_epochs > recipe.epochs:
        raise UsageError(
            f"the recipe has {recipe.epochs} epochs, of which the last {recipe.hard_mask_epochs} have hard masks",
            do="give more --epochs, or fewer: --set hard_mask_epochs=N",
        )
    try:
        parse_mask(recipe.deploy_mask)
    except ValueError as error:
        raise UsageError(f"deploy_mask: {error}") from error
    if recipe.tau_floor <= 0 or not 0 <= recipe.ema < 1 or not 0 < recipe.mask_margin_width <= 1:
        raise UsageError("tau_floor is above 0, ema in [0, 1) and mask_margin_width in (0, 1]")
    if not 0 <= recipe.seed < 2**31 or recipe.steps < 0 or recipe.warmup < 0 or recipe.validation_people < 0:
        raise UsageError("seed, steps, warmup and validation_people are at least 0, seed below 2^31")
    if not 0 <= recipe.decay_beta1 < 1:
        raise UsageError(f"decay_beta1 is within 0..1; received {recipe.decay_beta1}")
    weights = (
        recipe.weight_decay,
        recipe.tv_weight,
        recipe.mask_margin_weight,
        recipe.clip,
        recipe.margin,
        recipe.logit_scale,
    )
    if min(weights) < 0 or not 0 <= recipe.smoothing < 1 or not 0 <= recipe.decay_from <= 1:
        raise UsageError(
            "weights, margin, clip and logit_scale are at least 0, smoothing and decay_from within 0..1"
        )
    if recipe.share and (min(recipe.share) < 0 or sum(recipe.share) <= 0):
        raise UsageError(f"share holds parts of a batch, none below 0; received {list(recipe.share)}")
    _check_augmentation(recipe.augmentation)
    try:
        distilling.check(recipe.views, recipe.distill)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if recipe.distilled and (recipe.triplet_weight or recipe.identity_weight or recipe.share):
        raise UsageError(
            "triplet_weight, identity_weight and share do not go with a teacher",
            why="it is its answers that are learned, not who is who",
            do="leave them out; distill.share says how much of each data set is in a batch",
        )
    if not recipe.distilled and recipe.triplet_weight <= 0 and recipe.identity_weight <= 0:
        raise UsageError("triplet_weight and identity_weight are both 0", why="nothing would be learned")
    idle = [name for name in _OF_SHARP_MASKS if getattr(recipe, name) != getattr(Recipe, name)]
    if idle and not registered.sharp:
        raise UsageError(
            f"{', '.join(idle)} does not fit {recipe.arch}",
            why="it has no sharp masks, which that steers",
            do="leave it out",
        )
    try:
        registered.make_settings(recipe.settings)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the settings of {recipe.arch} do not fit: {error}") from error


def _check_augmentation(augmentation: Augmentation) -> None:
    for name in ("area", "aspect", "erase_area"):
        pair = getattr(augmentation, name)
        top = math.inf if name == "aspect" else 1.0
        if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= top:
            raise UsageError(f"augmentation.{name} is two ascending numbers above 0; received {list(pair)}")
    for name in ("flip", "erase", "blur", "kernels", "haze"):
        if not 0 <= getattr(augmentation, name) <= 1:
            raise UsageError(f"augmentation.{name} is a probability; received {getattr(augmentation, name)}")
    if not 0 <= augmentation.crosstalk <= 1 or not 0 <= augmentation.grain <= 64:
        raise UsageError("augmentation.crosstalk is within 0..1, augmentation.grain within 0..64")
    if not 0 <= augmentation.tone <= 5 or not 0 <= augmentation.saturation <= 1:
        raise UsageError("augmentation.tone is within 0..5, augmentation.saturation within 0..1")


def _set(recipe: Recipe, key: str, value: Any) -> Recipe:
    head, _, rest = key.partition(".")
    if head == "settings" and rest:
        return replace(recipe, settings={**recipe.settings, rest: value})
    if head in _PARTS and rest:
        part = getattr(recipe, head)
        return replace(recipe, **{head: replace(part, **{rest: _typed(part, rest, value, key)})})
    if rest or head == "settings" or head in _PARTS:
        raise UsageError(f"'{key}' is no setting of a recipe")
    return replace(recipe, **{head: _typed(recipe, head, value, key)})


_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a list of numbers",
}


def _typed(owner: Any, name: str, value: Any, key: str) -> Any:
    if name not in {item.name for item in fields(owner)}:
        raise UsageError(
            f"'{key}' is no setting of a recipe",
            do=f"known are {', '.join(item.name for item in fields(owner))}",
        )
    current = getattr(owner, name)
    if (
        isinstance(current, tuple)
        and isinstance(value, list)
        and all(isinstance(part, (int, float)) for part in value)
    ):
        return tuple(float(part) for part in value)
    if isinstance(current, bool) or isinstance(value, bool):
        if isinstance(current, bool) and isinstance(value, bool):
            return value
    elif isinstance(current, float) and isinstance(value, (int, float)):
        return float(value)
    elif isinstance(current, type(value)):
        return value
    raise UsageError(f"'{key}' takes {_KINDS[type(current)]}; received {value!r}")
