"""One architecture, as it is registered."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from san_deploy.io.typed_json import read_record

from .protocol import Network, Settings

#: Overrides of a recipe: `{key: value}`, keys and values as `san train --set` takes them.
Overrides = Mapping[str, Any]


@dataclass(frozen=True)
class Architecture:
    """What an architecture's name stands for.

    Attributes:
        settings: class of its settings.
        network: class of the network, made from those.
        recipes: what each recipe changes for it, by the recipe's name; there are no others for it.
        fixed: settings that the name implies, so that one class serves several names.
        floating: modules of its soft masks and gates, by their name alone, whose layers INT8 leaves in floating point.
            Sharp masks need no name: they are found in the graph by what they compute.
        min_int8: least fraction, 0..1, of the operands of convolutions and products that INT8 must reach.
        sharp: its masks can be sharp, so that the recipe's mask, tau, hard-mask and mask-margin values mean something.
            Which they are, a network says by its `attention.SharpAttention` blocks (`attention_blocks`).
    """

    settings: type[Any]
    network: Callable[[Any], Network]
    recipes: Mapping[str, Overrides]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    floating: tuple[str, ...] = ()
    min_int8: float = 0.5
    sharp: bool = False

    def make_settings(self, values: Mapping[str, Any]) -> Settings:
        """The settings with these values and the name's own.

        Raises:
            ValueError: a value is out of range, of another type or contradicts the name, or there is no such setting.
        """
        for name, value in self.fixed.items():
            # JSON gives lists.
            given = values.get(name, value)
            if (tuple(given) if isinstance(given, list) else given) != value:
                raise ValueError(f"{name} is {value!r} by the architecture's name; received {given!r}")
        names = [item.name for item in fields(self.settings)]
        for name in values:
            if name not in names:
                near = difflib.get_close_matches(name, names, 1)
                guess = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
                raise ValueError(f"'{name}' is no setting; {guess}")
        plain = {**values, **self.fixed}
        settings: Settings = read_record(
            self.settings,
            {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()},
        )
        return settings
