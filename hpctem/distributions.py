"""How quantities and distributions are written in a campaign file.

`4 nm`; `{uniform: [2 nm, 8 nm]}`; `{log_uniform: [a, b]}`; `{normal: {mean, std, min, max}}`,
truncated, or clipped with `clip: true`; `{choice: [...], weights: [...]}`; `{grid: [...]}`, which
cycles through the values, each optionally spread by `std`. Every distribution takes
`per: structure | wave | focus | image`.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Any

from pydantic_core import core_schema

from hpctem.sampling import LEVELS, Distribution, Value
from hpctem.units import UNITS, internal_unit, parse_number, parse_quantity

_KINDS = ("uniform", "normal", "log_uniform", "choice", "grid")
_OPTIONS = {"choice": ("weights",), "grid": ("std",)}


def _dimension(dimension: str | None) -> str | None:
    return None if dimension in (None, "count", "category") else dimension


def _limits(minimum: float, maximum: float, dimension: str | None) -> str:
    unit = f" {internal_unit(dimension)}" if dimension in UNITS else ""
    return f"{minimum:g} to {maximum:g}{unit}"


@dataclass(frozen=True)
class Quantity:
    """Marks a float of the config as a quantity with unit and allowed range."""

    dimension: str | None
    minimum: float
    maximum: float

    def parse(self, value: Any) -> float:
        """The value in internal units; raises ValueError for a bad unit or range."""
        number = parse_quantity(value, self.dimension)
        if not self.minimum <= number <= self.maximum:
            allowed = _limits(self.minimum, self.maximum, self.dimension)
            raise ValueError(f"{value} is outside the allowed range {allowed}")
        return number

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return _quantity_schema(self.dimension, self.minimum, self.maximum)


def _quantity_schema(dimension: str | None, minimum: float, maximum: float) -> dict[str, Any]:
    """A number, or text with a unit; `config.schema` puts the hint into the description."""
    allowed = _limits(minimum, maximum, dimension)
    if dimension is None:
        return {"type": ["number", "string"], "x-hint": allowed}
    units = ", ".join(UNITS[dimension])
    hint = f"{dimension} with unit, {allowed}; units: {units}"
    return {"type": "string", "x-hint": hint, "x-unit": internal_unit(dimension)}


@dataclass(frozen=True)
class Drawn:
    """Marks a value of the config as a constant or a distribution.

    `dimension` is one of `units.UNITS`, None for a bare number, 'count' for whole numbers or
    'category' for one of `categories`; `per` is how often it is drawn unless the file says, and
    `finest` the most often it can be.
    """

    dimension: str | None
    minimum: float = -math.inf
    maximum: float = math.inf
    per: str = "structure"
    categories: tuple[str, ...] = ()
    finest: str = "structure"

    def parse(self, value: Any) -> Distribution:
        """The distribution that a value of the file stands for; raises ValueError."""
        if isinstance(value, Distribution):
            return value
        if not isinstance(value, dict):
            return self._make("constant", values=(self._one(value),))
        options = dict(value)
        per = options.pop("per", self.per)
        levels = LEVELS[: LEVELS.index(self.finest) + 1]
        if per not in levels:
            raise ValueError(f"'per: {per}' must be one of {', '.join(levels)} here")
        kinds = [kind for kind in _KINDS if kind in options]
        if len(kinds) != 1:
            name = next(iter(options), "")
            match = difflib.get_close_matches(str(name), _KINDS, n=1)
            hint = f"; did you mean {match[0]!r}?" if match else ""
            raise ValueError(f"a distribution has exactly one of {', '.join(_KINDS)}{hint}")
        kind = kinds[0]
        argument = options.pop(kind)
        for name in options:
            if name not in _OPTIONS.get(kind, ()):
                known = ("per", *_OPTIONS.get(kind, ()))
                raise ValueError(f"'{kind}' takes no {name!r}; beside it: {', '.join(known)}")
        if self.dimension == "category" and kind not in ("choice", "grid"):
            raise ValueError(f"a category takes 'choice' or 'grid', not '{kind}'")
        if kind in ("uniform", "log_uniform"):
            return self._interval(kind, argument, per)
        if kind == "normal":
            return self._normal(argument, per)
        return self._members(kind, argument, options, per)

    def _one(self, value: Any) -> Value:
        if self.dimension == "category":
            if value not in self.categories:
                raise ValueError(f"{value!r} is not one of {', '.join(self.categories)}")
            return str(value)
        number = parse_quantity(value, _dimension(self.dimension))
        if not self.minimum <= number <= self.maximum:
            allowed = _limits(self.minimum, self.maximum, self.dimension)
            raise ValueError(f"{value} is outside the allowed range {allowed}")
        if self.dimension == "count":
            if number != int(number):
                raise ValueError(f"{value} is not a whole number")
            return int(number)
        return number

    def _interval(self, kind: str, argument: Any, per: str) -> Distribution:
        if not isinstance(argument, list) or len(argument) != 2:
            raise ValueError(f"'{kind}' takes two values, [lowest, highest]")
        low, high = (float(self._one(v)) for v in argument)
        if low > high:
            raise ValueError(f"the lowest value {argument[0]} is above the highest {argument[1]}")
        if kind == "log_uniform" and low <= 0:
            raise ValueError(f"'log_uniform' needs values above zero, not {argument[0]}")
        return self._make(kind, parameters=(low, high), per=per)

    def _normal(self, argument: Any, per: str) -> Distribution:
        known = ("mean", "std", "min", "max", "clip")
        if not isinstance(argument, dict) or not {"mean", "std"} <= set(argument):
            raise ValueError("'normal' takes {mean, std} and optionally min, max, clip")
        for name in argument:
            if name not in known:
                match = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {match[0]!r}?" if match else ""
                raise ValueError(f"'normal' takes no {name!r}{hint}; known: {', '.join(known)}")
        mean = float(self._one(argument["mean"]))
        std = parse_quantity(argument["std"], _dimension(self.dimension))
        if std < 0:
            raise ValueError(f"the standard deviation {argument['std']} is negative")
        low = float(self._one(argument["min"])) if "min" in argument else -math.inf
        high = float(self._one(argument["max"])) if "max" in argument else math.inf
        if not low <= mean <= high:
            if low > high:
                raise ValueError(f"min {argument['min']} is above max {argument['max']}")
            if mean < low - 6 * std or mean > high + 6 * std:
                raise ValueError("the mean lies more than six standard deviations outside min, max")
        clip = argument.get("clip", False)
        if not isinstance(clip, bool):
            raise ValueError(f"clip must be true or false, not {clip!r}")
        for name, bound, missing, limit in (
            ("min", mean - 6 * std, low == -math.inf, self.minimum),
            ("max", mean + 6 * std, high == math.inf, self.maximum),
        ):
            if missing and (bound < limit if name == "min" else bound > limit):
                allowed = _limits(self.minimum, self.maximum, self.dimension)
                raise ValueError(
                    f"this normal distribution reaches beyond the allowed range {allowed}; "
                    f"give it '{name}'"
                )
        return self._make("normal", parameters=(mean, std), bounds=(low, high), clip=clip, per=per)

    def _members(self, kind: str, argument: Any, options: dict[str, Any], per: str) -> Distribution:
        if not isinstance(argument, list) or not argument:
            raise ValueError(f"'{kind}' takes a list of values")
        values = tuple(self._one(v) for v in argument)
        weights: tuple[float, ...] = ()
        if "weights" in options:
            given = options["weights"]
            if not isinstance(given, list) or len(given) != len(values):
                raise ValueError(f"'weights' needs one number for each of the {len(values)} values")
            weights = tuple(parse_number(w) for w in given)
            if min(weights) < 0 or sum(weights) <= 0:
                raise ValueError("weights are not negative, and not all zero")
        std = (
            parse_quantity(options["std"], _dimension(self.dimension)) if "std" in options else 0.0
        )
        if std < 0 or (std > 0 and self.dimension in ("count", "category")):
            raise ValueError(f"std: {options['std']} is not allowed here")
        if std > 0:
            numbers = [float(v) for v in values]
            low, high = min(numbers) - 6 * std, max(numbers) + 6 * std
            if low < self.minimum or high > self.maximum:
                allowed = _limits(self.minimum, self.maximum, self.dimension)
                raise ValueError(
                    f"this grid with its std reaches beyond the allowed range {allowed}"
                )
        return self._make(kind, values=values, weights=weights, std=std, per=per)

    def _make(self, kind: str, per: str | None = None, **parameters: Any) -> Distribution:
        return Distribution(
            kind,
            per=per or self.per,
            allowed=(self.minimum, self.maximum),
            integer=self.dimension == "count",
            **parameters,
        )

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return core_schema.no_info_plain_validator_function(
            self.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(self._serialise),
        )

    def _serialise(self, distribution: Distribution) -> dict[str, Any]:
        """Plain data, in internal units, that says all that decides a draw."""
        unit = _dimension(self.dimension)
        data: dict[str, Any] = {"per": distribution.per}
        if unit is not None:
            data["unit"] = internal_unit(unit)
        if distribution.kind in ("constant", "choice", "grid"):
            data[distribution.kind] = list(distribution.values)
            if distribution.weights:
                data["weights"] = list(distribution.weights)
            if distribution.std:
                data["std"] = distribution.std
        else:
            data[distribution.kind] = list(distribution.parameters)
        if distribution.kind == "normal":
            data["bounds"] = [b if math.isfinite(b) else None for b in distribution.bounds]
            data["clip"] = distribution.clip
        return data

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        levels = list(LEVELS[: LEVELS.index(self.finest) + 1])
        per = {"enum": levels, "default": self.per}
        one = self._value_schema()
        bare = {name: value for name, value in one.items() if not name.startswith("x-")}
        many = {"type": "array", "items": bare, "minItems": 1}
        shapes: dict[str, dict[str, Any]] = {
            "choice": {"choice": many, "weights": {"type": "array", "items": {"type": "number"}}},
            "grid": {"grid": many},
        }
        if self.dimension != "category":
            numbers = dict.fromkeys(("mean", "std", "min", "max"), bare)
            pair = {"type": "array", "items": bare, "minItems": 2, "maxItems": 2}
            shapes["uniform"], shapes["log_uniform"] = {"uniform": pair}, {"log_uniform": pair}
            shapes["normal"] = {
                "normal": {
                    "type": "object",
                    "properties": {**numbers, "clip": {"type": "boolean"}},
                    "required": ["mean", "std"],
                    "additionalProperties": False,
                }
            }
        if _dimension(self.dimension) is not None or self.dimension is None:
            shapes["grid"]["std"] = bare
        distributions = (
            {
                "type": "object",
                "properties": {**properties, "per": per},
                "required": [kind],
                "additionalProperties": False,
            }
            for kind, properties in shapes.items()
        )
        return {"anyOf": [one, *distributions]}

    def _value_schema(self) -> dict[str, Any]:
        if self.dimension == "category":
            return {"enum": list(self.categories)}
        if self.dimension == "count":
            limits = {"minimum": int(self.minimum), "maximum": int(self.maximum)}
            return {"type": "integer", **limits, "x-hint": f"{self.minimum:g} to {self.maximum:g}"}
        return _quantity_schema(self.dimension, self.minimum, self.maximum)
