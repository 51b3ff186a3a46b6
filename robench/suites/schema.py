"""What a suite's file may hold, as pydantic sees it, and its faults in sentences."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from robench import norms
from robench.errors import BadInput, reason_of, unknown
from robench.ranges import text_of
from robench.store.files import plain_file

# what pydantic calls a fault -> what is allowed instead
ALLOWED = {
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "too_short": "not empty",
    "greater_than_equal": "at least {ge}",
    "greater_than": "above {gt}",
    "less_than": "below {lt}",
    "literal_error": "one of {expected}",
}


def _text(value: Any) -> Any:
    """A number as text, so that eps may be written 0.1 and stays exact."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return text_of(value) if isinstance(value, float) else str(value)


def _list(value: Any) -> Any:
    """One name as a list of it."""
    return (value,) if isinstance(value, str) else value


def _norm(value: Any) -> Any:
    """The value, if it is a norm's name, which are known when a file is read."""
    if isinstance(value, str) and value in norms.NORMS:
        return value
    raise PydanticCustomError("literal_error", "not a norm", {"expected": norms.any_of(map(repr, norms.NORMS))})


Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(strict=True, ge=1)]
Seeds = Annotated[tuple[Annotated[int, Field(strict=True, ge=0, lt=2**32)], ...], Field(min_length=1)]
Norm = Annotated[str, BeforeValidator(_norm)]
Number = Annotated[float, Field(strict=True)]
# shares a detector is measured by on images made without it, by their names in `robench.detector.measuring.figures`
Measured = Literal["acc_nadv", "acc_com", "detection_rate", "false_positive_rate", "clean_accuracy", "robust_accuracy"]


class _Data(BaseModel):
    """A frozen record that knows all of its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Row(_Data):
    """A row as the file has it; fields that are None are the scale's, see `RowPlan`."""

    name: Name
    defense: Name
    options: dict[str, Any] = {}
    seeds: Seeds | None = None
    recipe: Name | None = None
    epochs: Count | None = None
    batch_size: Count | None = None
    detector: Name | None = None
    detector_options: dict[str, Any] = {}
    shown: Annotated[bool, Field(strict=True)] = True


class Column(_Data):
    """A column of the table: an attack or several, or none for clean accuracy.

    attacks: names of attacks or sets; `combine` says whether the figure of several is the share of images that none of
    them breaks, or the smallest of their figures. options: for those attacks that have them. count: test images, None
    for the scale's. surrogate: the row whose model the images are crafted on. guide: the row whose model's gradients
    are followed. reading_of: another column, whose printed values may mean this one. detector: stands before every
    row's model, unless a row has its own; detector_images, trained_on, trained_options and fpr say how it is fitted, as
    in `DetectorRequest`. figure: what is shown of the detector on images made without it; None: model and detector are
    attacked as one.
    """

    name: Name
    attacks: Annotated[tuple[Name, ...], BeforeValidator(_list), Field(alias="attack", min_length=1)] = ()
    norm: Norm = norms.DEFAULT
    eps: Annotated[Name | None, BeforeValidator(_text)] = None
    options: dict[str, Any] = {}
    combine: Literal["worst case", "minimum"] = "worst case"
    count: Count | None = None
    surrogate: Name | None = None
    guide: Name | None = None
    reading_of: Name | None = None
    detector: Name | None = None
    detector_options: dict[str, Any] = {}
    detector_images: Count = 1000
    trained_on: Name = "pgd"
    trained_options: dict[str, Any] = {}
    fpr: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.05
    figure: Measured | None = None
    eot: Count = 1
    bpda: tuple[Name, ...] = ()

    @property
    def by_image(self) -> bool:
        """Whether its figure counts the same images for every row, so that rows can be paired image by image."""
        return bool(self.attacks) and self.figure is None and self.combine == "worst case"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = sorted(self.model_fields_set - {"name"})
        if not self.attacks and given:
            raise ValueError(f"has {given[0]} but no attack; name one, or leave {given[0]} out for clean accuracy")
        if self.attacks and self.eps is None:
            raise ValueError('has an attack but no eps; give one, such as eps = "8/255"')
        if self.surrogate and self.detector:
            raise ValueError("has a surrogate and a detector; leave one of them out")
        if self.guide and (self.surrogate or self.detector or self.bpda or self.eot > 1):
            raise ValueError("has a guide and a surrogate, a detector, bpda or eot, which go with no guide; give one")
        return self


class Order(_Data):
    """A claim of the paper about several rows: under each column the figures of these rows grow in this order."""

    claim: Name
    columns: Annotated[tuple[Name, ...], BeforeValidator(_list), Field(alias="column", min_length=1)]
    rows: Annotated[tuple[Name, ...], Field(min_length=2)]


class Scale(_Data):
    """How much of the table is run: its data, and what differs for single rows and columns.

    count: test images, None for all. recipe, epochs, batch_size, seeds: of the rows that have none of their own. note:
    what a user should know. rows, columns: by name, the fields that are others at this scale, or `skip = true` and a
    `reason`.
    """

    dataset: Name
    recipe: Name = "quick"
    count: Count | None = None
    epochs: Count | None = None
    batch_size: Count | None = None
    seeds: Seeds = (0,)
    note: str = ""
    rows: dict[str, dict[str, Any]] = {}
    columns: dict[str, dict[str, Any]] = {}


class SuiteFile(_Data):
    """A suite as its file has it.

    tolerance: how many points a figure may lie beside the printed one besides our interval. orders: what the paper
    says of several rows, beside the printed values.
    """

    title: Name
    source: Name
    metric: str = ""
    scales: Annotated[dict[str, Scale], Field(min_length=1)]
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]
    columns: Annotated[tuple[Column, ...], Field(min_length=1)]
    printed: dict[str, dict[str, Number]] = {}
    orders: tuple[Order, ...] = ()
    tolerance: Annotated[float, Field(strict=True, ge=0, le=100)] = 1.0


Model = TypeVar("Model", bound=BaseModel)


def parsed(path: Path) -> dict[str, Any]:
    """What a TOML file holds; raises BadInput where it cannot be read."""
    try:
        with plain_file(path) as file:
            return tomllib.loads(file.read().decode())
    except FileNotFoundError:
        raise BadInput(f"There is no file {path}; check the path, or name a bundled suite.") from None
    except (OSError, ValueError) as error:  # also for what no path can hold
        raise BadInput(f"The suite {path} cannot be read ({reason_of(error)}); mend the file.") from error


@contextmanager
def inside(place: str) -> Iterator[None]:
    """Say where in what the user gave a fault lies."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"In {place}: {error}") from error


def validated(model: type[Model], raw: Mapping[str, Any]) -> Model:
    """The record; raises BadInput for the first fault in it."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise _sentence(model, raw, error) from None


def _sentence(model: type[BaseModel], raw: Mapping[str, Any], error: ValidationError) -> BadInput:
    """What is wrong first, in a sentence."""
    first = error.errors()[0]
    *parents, last = first["loc"] or ("",)
    outer, place = ("the suite" if model is SuiteFile else repr(raw["name"])), _place(first["loc"], raw)
    if model is not SuiteFile:  # a single row or column
        place = ", ".join(filter(None, [outer, place]))
    if first["type"] == "extra_forbidden":
        kinds: dict[str, type[BaseModel]] = {"rows": Row, "columns": Column, "scales": Scale}
        inner = kinds.get(str(parents[0]), model) if parents else model
        fields = [field.alias or name for name, field in inner.model_fields.items()]
        return unknown(f"field of {_place(parents, raw) or outer}", str(last), fields)
    if first["type"] == "missing":
        return BadInput(f"{_place(parents, raw) or outer} lacks {str(last)!r}; give it.")
    if first["type"] == "value_error":
        return BadInput(f"{place} {first['ctx']['error']}.")
    known = ALLOWED.get(first["type"])
    allowed = known.format(**first.get("ctx", {})) if known else f"such that this holds: {first['msg']}"
    return BadInput(f"{place} is {repr(first['input'])[:80]}, but must be {allowed}.")


def _place(location: Sequence[int | str], raw: Mapping[str, Any]) -> str:
    """A place in a file or in a single row or column in words, such as "row 'LLR', seeds[0]"."""
    head, rest = [], list(location)
    if len(rest) > 1 and isinstance(rest[1], int) and rest[0] in ("rows", "columns"):
        entry = raw[rest[0]][rest[1]]
        name = entry.get("name") if isinstance(entry, dict) else None
        head = [f"{rest[0].removesuffix('s')} " + (repr(name) if isinstance(name, str) else f"number {rest[1] + 1}")]
        rest = rest[2:]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest).lstrip(".")
    return ", ".join([*head, *filter(None, [path])])


def check_entries(found: SuiteFile) -> None:
    """Raise BadInput for a name that is given twice, or that names nothing."""
    rows, columns = [row.name for row in found.rows], [column.name for column in found.columns]
    for kind, given in (("row", rows), ("column", columns)):
        name, times = Counter(given).most_common(1)[0]
        if times > 1:
            raise BadInput(f"{times} {kind}s are named {name!r}; give each a name of its own.")
    shown = [row.name for row in found.rows if row.shown]
    for scale, plan in found.scales.items():
        _check_known(f"scales.{scale}.rows", plan.rows, rows)
        _check_known(f"scales.{scale}.columns", plan.columns, columns)
    _check_known("printed", found.printed, shown)
    for row, values in found.printed.items():
        _check_known(f"printed.{row}", values, columns)
    counted = [column.name for column in found.columns if column.by_image]
    for order in found.orders:
        _check_known(f"the order {order.claim!r}, rows", order.rows, shown)
        _check_known(f"the order {order.claim!r}, columns", order.columns, counted)
    own = [column.name for column in found.columns if column.reading_of is None]
    for column in found.columns:
        if column.reading_of is not None and column.reading_of not in own:
            raise BadInput(f"column {column.name!r}: {unknown('column to be a reading of', column.reading_of, own)}")
        if column.reading_of is not None and any(column.name in values for values in found.printed.values()):
            raise BadInput(
                f"column {column.name!r} is a reading of {column.reading_of!r} and has printed values of its own; "
                "leave one of them out."
            )


def _check_known(place: str, given: Iterable[str], known: Sequence[str]) -> None:
    kind = "column" if place.endswith("columns") or place.startswith("printed.") else "row"
    for name in given:
        if name not in known:
            raise BadInput(f"{place} names what is not there: {unknown(kind, name, known)}")
