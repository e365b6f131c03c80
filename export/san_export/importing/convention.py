"""What a network expects of its input: size, colours, arithmetic, resize. One row per usual convention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from san_deploy.errors import UsageError
from san_deploy.preprocess import MEAN_RGB, RESIZES, STD_RGB

COLORS = ("rgb", "bgr")
LAYOUTS = ("nchw", "nhwc")
#: What pixels of 0..255 are divided by before the mean is subtracted.
SCALES = (1, 255)


@dataclass(frozen=True)
class Convention:
    """How crops become a network's input: `(pixel / scale - mean) / std`, pixels 0..255.

    Attributes:
        color: order of the channels, one of `COLORS`.
        scale: what pixels are divided by, one of `SCALES`.
        mean, std: three numbers each, in the order of `color` and in units of `pixel / scale`.
        resize: a name in `san_deploy.preprocess.RESIZES`.
        origin: whose convention it is, for messages.
    """

    color: str = "rgb"
    scale: int = 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    resize: str = "pillow-bilinear-antialias"
    origin: str = "given"

    def __post_init__(self) -> None:
        if self.color not in COLORS:
            raise UsageError(f"--color {self.color} is unknown", do=f"give {' or '.join(COLORS)}")
        if self.scale not in SCALES:
            raise UsageError(f"--scale {self.scale} is unknown", do="give 255 or 1")
        if self.resize not in RESIZES:
            raise UsageError(f"--resize {self.resize} is unknown", do=f"give one of {', '.join(RESIZES)}")
        for name, values in (("--mean", self.mean), ("--std", self.std)):
            if len(values) != 3 or not np.isfinite(values).all():
                raise UsageError(f"{name} is three finite numbers; received {values}")
        if min(self.std) <= 0:
            raise UsageError(f"--std is above zero; received {self.std}")

    def apply(self, crops: np.ndarray, layout: str) -> np.ndarray:
        """The network's input as its own users compute it, for the comparison with the wrapped network.

        Args:
            crops: `(N, H, W, 3)` uint8 BGR.
            layout: one of `LAYOUTS`.

        Returns:
            `(N, 3, H, W)` or `(N, H, W, 3)` float32.
        """
        x = crops[:, :, :, ::-1] if self.color == "rgb" else crops
        values = (x.astype(np.float32) / np.float32(self.scale) - np.array(self.mean, np.float32)) / np.array(
            self.std, np.float32
        )
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if layout == "nchw" else values)

    def mean_std_rgb(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation in the order RGB and in units of 0..1, as artefacts have them."""
        factor = 1.0 if self.scale == 255 else 1 / 255
        order = 1 if self.color == "rgb" else -1
        return (
            tuple(value * factor for value in self.mean[::order]),
            tuple(value * factor for value in self.std[::order]),
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {key: list(item) if isinstance(item, tuple) else item for key, item in asdict(self).items()}

    def __str__(self) -> str:
        def numbers(values: Sequence[float]) -> str:
            return ",".join(f"{value:g}" for value in values)

        return (
            f"--color {self.color} --scale {self.scale} --mean {numbers(self.mean)} --std {numbers(self.std)} "
            f"--resize {self.resize}"
        )


_IMAGENET = Convention(mean=MEAN_RGB, std=STD_RGB)

#: Name for `--preset` -> what networks of that origin expect. Sources: torchreid's FeatureExtractor (PIL, bilinear);
#: FastReID's deploy tools (its exported graph holds the normalisation; cv2 cubic there, PIL bicubic in training);
#: TransReID's test transforms (PIXEL_MEAN and PIXEL_STD of 0.5, PIL bilinear); TAO's ReIdentificationNet (one
#: deviation for all channels, since DeepStream has one scale); Intel's Open Model Zoo (BGR 0..255); BoxMOT's ReID
#: backends (cv2 linear).
PRESETS: dict[str, Convention] = {
    "torchreid": replace(_IMAGENET, origin="torchreid"),
    "fastreid": Convention(scale=1, resize="pillow-bicubic-antialias", origin="fastreid"),
    "transreid": Convention(mean=(0.5,) * 3, std=(0.5,) * 3, origin="transreid"),
    "tao": Convention(mean=MEAN_RGB, std=(0.226,) * 3, origin="tao"),
    "openvino-bgr": Convention("bgr", 1, resize="cv2-linear", origin="openvino-bgr"),
    "boxmot": replace(_IMAGENET, resize="cv2-linear", origin="boxmot"),
}


def _ordered(values: tuple[float, float, float], order: int) -> tuple[float, float, float]:
    one, two, three = values[::order]
    return one, two, three


def plausible() -> list[Convention]:
    """The conventions that are tried where nobody knows: each arithmetic of the presets in both orders of colour.

    The resize, which changes embeddings by less than any of these, stays bilinear.
    """
    found: dict[tuple[Any, ...], Convention] = {}
    for row in PRESETS.values():
        for color in COLORS:
            order = 1 if color == row.color else -1
            item = replace(
                row,
                color=color,
                mean=_ordered(row.mean, order),
                std=_ordered(row.std, order),
                resize="pillow-bilinear-antialias",
            )
            found.setdefault((item.color, item.scale, item.mean, item.std), item)
    bare = Convention(origin="0..1")
    for item in (bare, replace(bare, color="bgr")):
        found.setdefault((item.color, item.scale, item.mean, item.std), item)
    return list(found.values())
