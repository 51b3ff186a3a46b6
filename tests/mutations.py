"""Artifacts of a runs folder changed in structure, their seals fitting: keys, types, nesting, columns, tensors."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

from robench.store.files import digest, identity

# what a value is replaced by
STRANGE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 7, 10**30, 2**63, 0.5, -0.5, 1e308, math.nan, math.inf, "", "x", "0.1", "1/0", "../..",
    "a\nb", "\x1b[2J", "\ud800", "[/x]", [], {}, [1], {"a": 1}, [[]], "9" * 50, "robust accuracy", "complete",
)  # fmt: skip


# --- JSON -------------------------------------------------------------------------------------------------------------


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += [(value, key), *_places(item)]
    return found


def change_json(value: dict[str, Any], noise: Random) -> str:
    """Change one thing in the structure of a JSON object; returns what."""
    places = [place for place in _places(value) if place[1] not in ("seal", "format", "checksum")]
    holder, key = noise.choice(places)
    top = [place for place in places if place[0] is value]
    holder, key = noise.choice(top) if noise.random() < 0.5 else (holder, key)
    kind = noise.choice(["drop", "retype", "retype", "retype", "nest", "rename", "add", "repeat"])
    if kind == "drop":
        del holder[key]
    elif kind == "nest":
        holder[key] = [holder[key]] if noise.random() < 0.5 else {"a": holder[key]}
    elif kind == "rename" and isinstance(holder, dict):
        holder[noise.choice([*holder, f"{key}s", "x"])] = holder.pop(key)
    elif kind == "add" and isinstance(holder, dict):
        holder["added"] = noise.choice(STRANGE)
    elif kind == "repeat" and isinstance(holder[key], list | str):
        holder[key] = holder[key] * noise.choice([0, 2, 3])
    else:
        kind = "retype"
        holder[key] = noise.choice(STRANGE)
    return f"{kind} {key}"


def seal(path: Path, value: dict[str, Any]) -> str:
    """Write an object with the seal that fits, if it had one; returns its digest."""
    plain = {name: item for name, item in value.items() if name != "seal"}
    if "seal" in value:
        value = {**plain, "seal": digest(plain)}
    path.write_text(json.dumps(value))
    return digest(plain)


def read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value


# --- tables and tensors -----------------------------------------------------------------------------------------------


def change_table(path: Path, noise: Random) -> str:
    """Change one thing in the structure of a parquet file; returns what."""
    table = pd.read_parquet(path)
    name, other = noise.choice(list(table)), noise.choice(list(table))
    kinds: dict[str, Callable[[], Any]] = {
        "drop": lambda: table.drop(columns=name),
        "rename": lambda: table.rename(columns={name: f"{name}s"}),
        "swap": lambda: table.rename(columns={name: other, other: name}),
        "nested": lambda: table.assign(**{name: [[1, 2]] * len(table)}),
        "text": lambda: table.assign(**{name: table[name].astype(str)}),
        "float": lambda: table.assign(**{name: _float(table[name])}),
        "holes": lambda: table.assign(**{name: _float(table[name]).where(table.index % 2 == 0)}),
        "huge": lambda: table.assign(**{name: noise.choice([1e308, math.inf, -math.inf, 2**62, -(2**62)])}),
        "unsigned": lambda: table.assign(**{name: pd.Series([2**63 + 5] * len(table), dtype="uint64")}),
        "none": lambda: table.assign(**{name: None}),
        "truth": lambda: table.assign(**{name: noise.random() < 0.5}),
        "bytes": lambda: table.assign(**{name: [b"\xff\xfe"] * len(table)}),
        "fewer": lambda: table.iloc[: noise.randrange(len(table))],
        "more": lambda: pd.concat([table, table]),
        "turned": lambda: table.iloc[::-1],
        "added": lambda: table.assign(added=[{"a": [1]}] * len(table)),
    }
    kind = noise.choice([*kinds, "twice"])
    if kind == "twice":
        arrow = pa.Table.from_pandas(table, preserve_index=False)
        pq.write_table(arrow.append_column(name, arrow.column(name)), path)
    else:
        kinds[kind]().to_parquet(path, index=False)
    return f"{kind} {name}"


def _float(column: pd.Series) -> pd.Series:
    return pd.to_numeric(column, errors="coerce").astype(float)


TYPES = (torch.float64, torch.float16, torch.uint8, torch.bool)


def change_tensors(path: Path, noise: Random) -> str:
    """Change one thing in the structure of a file of tensors; returns what."""
    tensors = load_file(path)
    name = noise.choice(sorted(tensors))
    tensor = tensors[name]
    kinds: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
        "drop": lambda: {each: t for each, t in tensors.items() if each != name},
        "rename": lambda: {f"{each}s" if each == name else each: t for each, t in tensors.items()},
        "more": lambda: {**tensors, "added": torch.zeros(2)},
        "scalar": lambda: {**tensors, name: torch.tensor(0.5)},
        "empty": lambda: {**tensors, name: tensor[:0] if tensor.dim() else torch.zeros(0)},
        "flat": lambda: {**tensors, name: tensor.flatten()},
        "deep": lambda: {**tensors, name: tensor[None]},
        "half": lambda: {**tensors, name: tensor[: len(tensor) // 2].clone() if tensor.dim() else tensor},
        "twice": lambda: {**tensors, name: torch.cat([tensor, tensor]) if tensor.dim() else tensor},
        "wide": lambda: {**tensors, name: torch.cat([tensor, tensor], -1) if tensor.dim() else tensor},
        "type": lambda: {
            **tensors,
            name: tensor.to(noise.choice([torch.float64, torch.float16, torch.uint8, torch.bool])),
        },
        "nan": lambda: {**tensors, name: torch.full_like(tensor.float(), noise.choice([math.nan, math.inf, 1e30]))},
    }
    kind = noise.choice([*kinds, "header"])
    if kind == "header":
        content = path.read_bytes()
        path.write_bytes(noise.choice([2**62, 10**8, 3]).to_bytes(8, "little") + content[8:])
    else:
        save_file({each: t.contiguous() for each, t in kinds[kind]().items()}, path)
    return f"{kind} {name}"


# --- the files that vouch for others ----------------------------------------------------------------------------------


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def vouch(path: Path) -> None:
    """Make every file that holds the checksum of another hold the one that fits, as a forger would."""
    folder = path.parent
    if path.name == "sealed.parquet":
        value = read(folder / "sealed.json")
        seal(folder / "sealed.json", {**value, "sha256": checksum(path)})
        _sum_up(folder)
    elif path.name.startswith("shard-"):
        manifest = path.with_suffix(".json")
        if path != manifest:
            value = read(manifest)
            value["sha256"] = {**value["sha256"], path.suffix[1:]: checksum(path)}
            seal(manifest, value)
        _sum_up(folder)
    elif path.name == "sealed.json":
        _sum_up(folder)
    elif path.name == "spec.json" and folder.parent.name in ("evaluations", "crafted"):
        _move(folder, identity(read(path)))
    elif path.name == "spec.json" and folder.parent.name == "detectors":
        new = identity(read(path))
        value = read(folder / "fitted.json")
        seal(folder / "fitted.json", {**value, "fitted": new})
        folder.rename(folder.with_name(new))
    elif path.name == "model.safetensors":
        card = read(folder / "model.json")
        _done(folder, {**card, "digest": checksum(path)})
    elif path.name == "model.json":
        _done(folder, read(path))
    elif path.name == "detector.safetensors":
        value = read(folder / "fitted.json")
        seal(folder / "fitted.json", {**value, "digest": checksum(path)})
    elif path.name.startswith("scores-") and path.suffix == ".parquet":
        value = read(path.with_suffix(".json"))
        seal(path.with_suffix(".json"), {**value, "sha256": checksum(path)})


def _sum_up(folder: Path) -> None:
    """Let result.json be of the manifests that are there."""
    result = folder / "result.json"
    if result.exists():
        shards = {}
        for manifest in sorted(folder.glob("shard-*.json")):
            value = read(manifest)
            shards[manifest.stem] = digest({k: v for k, v in value.items() if k != "seal"})
        second = folder / "sealed.json"
        if second.exists():
            value = {**read(second), "shards": shards} if _is_of(read(second)) else read(second)
            shards_of = {"second": seal(second, value)}
        else:
            shards_of = {}
        seal(result, {**read(result), "shards": shards, **shards_of})


def _is_of(second: dict[str, Any]) -> bool:
    return isinstance(second.get("shards"), dict)


def _move(folder: Path, name: str) -> None:
    """Give an evaluation the id of its changed spec."""
    for path in folder.glob("*.json"):
        if path.name != "spec.json":
            value = read(path)
            if "evaluation" in value:
                seal(path, {**value, "evaluation": name})
    _sum_up(folder)
    if folder.name != name:
        shutil.move(folder, folder.with_name(name))


def _done(folder: Path, card: dict[str, Any]) -> None:
    mark = seal(folder / "model.json", card)
    (folder / "DONE").write_text(f"{card.get('spec_id')} {mark}\n", errors="replace")


def change(path: Path, noise: Random) -> str:
    """Change an artifact in structure, and what vouches for it; returns what was changed."""
    if path.suffix == ".parquet":
        told = change_table(path, noise)
    elif path.suffix == ".safetensors":
        told = change_tensors(path, noise)
    else:
        value = read(path)
        told = change_json(value, noise)
        if "checksum" in value:  # a baseline
            plain = {name: item for name, item in value.items() if name != "checksum"}
            path.write_text(json.dumps({**plain, "checksum": digest(plain)}))
        else:
            seal(path, value)
    vouch(path)
    return told
