"""The two data files of a shard, checked for what they hold before anybody computes with it: rows and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from robench.errors import first_line
from robench.norms import NORMS
from robench.results import rows as of
from robench.store.files import Damaged

# whole numbers in rows, and the least that each can be
LEAST = {
    "example_id": 0, "label": 0, "goal": -1, "clean_pred": -1, "adv_pred": -1, "trial": -2, "step": -1, "forwards": 0,
    "backwards": 0, "passes": 0, "sealed_clean": -1, "sealed_adv": -1,
}  # fmt: skip
# ... and more than any can be
MOST = 2**53
TEXTS = ("flags", "stages")
TRUTHS = ("clean_correct", "success", "sealed_success")
# columns that rows of before they were recorded lack
LATER = ("zero_pixels", "passes", "stages")
KNOWN = (*of.COLUMNS, *NORMS)
# the column that decides whether rows contradict themselves, and those that it follows from
JUDGED = ("success", "goal", "adv_pred", "label", "clean_correct")
SPENT = ("passes", "forwards", "backwards")
# float32 pixels round
TOLERANCE = 1e-5
# the name and the type of a shard's images, and the names of the logits that may stand beside them
IMAGES, FLOAT32 = "adversarial", "F32"
LOGITS = {kind: f"{kind} logits" for kind in ("clean", "adversarial")}


class Expected(NamedTuple):
    """What rows are held against: their examples, and the norm, the radius and whether a detector may reject, where
    their meaning counts; advice: what to do where they do not hold it; whole: whether no example may lack."""

    examples: range
    advice: str
    norm: str | None = None
    radius: float | None = None
    guarded: bool = True
    whole: bool = True


class _Unfit(Exception):
    """Something in a file is not what it should be."""


def rows(path: str, expected: Expected, columns: Sequence[str] | None = None) -> Any:
    """The rows in a file as an Arrow table, with `columns` only those.

    Raises Damaged where they are of other examples, lack a column, or have one of another type or values out of range,
    and where, as far as the meaning counts, a row contradicts itself.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        file = ParquetFile(path)
        found = file.metadata.num_rows
        if found > len(expected.examples) or (expected.whole and found < len(expected.examples)):
            raise _Unfit(f"{found} rows of {len(expected.examples)} examples")
        wanted = _wanted(file.schema_arrow, columns, expected.norm)
        table = file.read(columns=wanted, use_threads=False)
        table.validate(full=True)
        table = pa.table({name: _column(name, table.column(name)) for name in table.column_names})
        _check_meaning(table, expected)
    except (_Unfit, OSError, ValueError, TypeError, KeyError, IndexError, MemoryError, pa.ArrowException) as error:
        raise Damaged(f"The rows in {path} are damaged ({first_line(error, 120)}); {expected.advice}.") from error
    return table


def example_ids(path: str, count: int) -> list[int]:
    """The ids in the rows of a file, [] where there are not `count` of them; raises OSError where it cannot be read."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        file = ParquetFile(path)
        if file.metadata.num_rows != count:
            return []
        found: list[int] = file.read(columns=["example_id"], use_threads=False).column("example_id").to_pylist()
    except (KeyError, pa.ArrowException) as error:
        raise OSError(str(error)) from error
    return found


def answers_of(path: str, columns: Sequence[str], count: int, advice: str) -> Any:
    """Columns of a second verdict, one row per example, as an Arrow table. Raises Damaged for anything else."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        file = ParquetFile(path)
        if file.metadata.num_rows != count:
            raise _Unfit(f"{file.metadata.num_rows} rows of {count} examples")
        table = file.read(columns=_wanted(file.schema_arrow, columns, None), use_threads=False)
        return pa.table({name: _column(name, table.column(name)) for name in table.column_names})
    except (_Unfit, OSError, ValueError, TypeError, KeyError, IndexError, MemoryError, pa.ArrowException) as error:
        raise Damaged(f"The answers in {path} are damaged ({first_line(error, 120)}); {advice}.") from error


def _wanted(schema: Any, columns: Sequence[str] | None, norm: str | None) -> list[str]:
    """The columns to read; raises _Unfit where one is missing, or is there twice."""
    optional = {*LATER, *NORMS} - {norm}
    if columns is None:  # and what a later robench added, unless it is nested
        lacking = [name for name in KNOWN if name not in optional and name not in schema.names]
        flat = {field.name for field in schema if _is_flat(field.type)}
        columns = lacking + [name for name in schema.names if name in KNOWN or name in flat]
    chosen = list(columns)
    for name in chosen:
        if schema.names.count(name) != 1:
            raise _Unfit(f"{schema.names.count(name)} columns {name!r}")
    return chosen


def _is_flat(kind: Any) -> bool:
    import pyarrow as pa

    return not pa.types.is_nested(kind) and not pa.types.is_dictionary(kind)


def _column(name: str, column: Any) -> Any:
    """A column as its type has it; raises _Unfit for another type and values out of range."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind, types = column.type, pa.types
    if name in LEAST:
        if not types.is_integer(kind) or column.null_count:
            raise _Unfit(f"the column {name!r} is of {kind}")
        column = column.cast(pa.int64()) if types.is_unsigned_integer(kind) else column
        ends = pc.min_max(column).as_py()
        if len(column) and not LEAST[name] <= ends["min"] <= ends["max"] < MOST:
            raise _Unfit(f"the column {name!r} has values from {ends['min']} to {ends['max']}")
    elif name in TRUTHS:
        if not types.is_boolean(kind) or column.null_count:
            raise _Unfit(f"the column {name!r} is of {kind}")
    elif name in TEXTS:
        if not (types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind)):
            raise _Unfit(f"the column {name!r} is of {kind}")
    elif name not in (*NORMS, *LATER):
        return column
    elif not types.is_floating(kind):
        raise _Unfit(f"the column {name!r} is of {kind}")
    elif name in NORMS:
        values = column.to_numpy()
        if column.null_count or not ((values >= 0) & (values < MOST)).all():
            raise _Unfit(f"the column {name!r} has what is no distance")
    return column


def _check_meaning(table: Any, expected: Expected) -> None:
    """Raise _Unfit where rows are of other examples, or contradict themselves."""
    names = table.column_names
    if expected.norm is None:
        return
    if "example_id" in names and table.column("example_id").to_pylist() != list(expected.examples):
        raise _Unfit("they are of other examples")
    if not set(JUDGED) <= set(names):
        return
    judged = (*JUDGED, "clean_pred", expected.norm, *(SPENT if set(SPENT) <= set(names) else ()))
    found = table.select([name for name in names if name in judged]).to_pandas()
    wrong = of.contradictory(found, guarded=expected.guarded)
    if expected.norm in found and expected.radius is not None:
        far = found[expected.norm].to_numpy() > expected.radius + TOLERANCE * max(1.0, expected.radius)
        wrong = wrong | (of.succeeded(found) & far)
    if wrong.any():
        raise _Unfit(f"{int(wrong.sum())} of {len(found)} contradict themselves")


def images(path: str, count: int | None, advice: str) -> Any:
    """The images in a file, float32 [count, C, H, W], of any count if None; raises Damaged for anything else."""
    return _tensors(path, {IMAGES: (count, None, None, None)}, advice)[IMAGES]


def check_images(path: str, shape: Sequence[int], advice: str) -> None:
    """Raise Damaged unless a file holds images, float32 of `shape`, and logits or none; reads its header only."""
    _tensors(path, {IMAGES: shape, **dict.fromkeys(LOGITS.values(), (shape[0], None))}, advice, read=False)


def logits(path: str, count: int, advice: str) -> dict[str, Any] | None:
    """The logits in a file by the kind of image they are of, each float32 [count, classes], None where it has none;
    raises Damaged for anything else."""
    found = _tensors(path, dict.fromkeys(LOGITS.values(), (count, None)), advice)
    return {kind: found[name] for kind, name in LOGITS.items()} if found else None


def _tensors(
    path: str, shapes: Mapping[str, Sequence[int | None]], advice: str, *, read: bool = True
) -> dict[str, Any]:
    """Those of the named tensors that a file of images, with or without logits, has; each must be of its shape."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            if names not in ({IMAGES}, {IMAGES, *LOGITS.values()}):
                raise _Unfit(f"tensors {', '.join(map(repr, sorted(names)[:3])) or 'none'} instead of {IMAGES!r}")
            wanted = {name: shape for name, shape in shapes.items() if name in names}
            found = {name: _shape(file, name, shape) for name, shape in wanted.items()}
            if len({tuple(shape) for name, shape in found.items() if name != IMAGES}) > 1:
                raise _Unfit("logits of two shapes")
            return {name: file.get_tensor(name) for name in found} if read else {}
    except (_Unfit, SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise Damaged(f"The images in {path} are damaged ({first_line(error, 120)}); {advice}.") from error


def _shape(file: Any, name: str, shape: Sequence[int | None]) -> list[int]:
    """The shape of a tensor of a file; raises _Unfit for another type or shape than `shape`, in which None is any."""
    part = file.get_slice(name)
    found, kind = list(part.get_shape()), part.get_dtype()
    same = len(found) == len(shape) and 0 not in found
    if kind != FLOAT32 or not same or any(b not in (None, a) for a, b in zip(found, shape, strict=True)):
        raise _Unfit(f"{name}: {kind} {found} instead of {FLOAT32} {[each or 'any' for each in shape]}")
    return found
