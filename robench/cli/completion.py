"""What a shell completes an argument or an option with: names of models, attacks, suites and whatever else has one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

# a completer knows what was typed before, as the parameters of the context
Names = Callable[[Any], Iterable[str]]


def _plugins(*kinds: str) -> Names:
    def names(context: Any) -> Iterable[str]:
        del context
        from robench import registry

        return sorted({name for kind in kinds for name in registry.names(kind)})

    return names


def _choice(*names: str) -> Names:
    return lambda context: names


def _store(context: Any) -> Any:
    from robench.store.runs import Store, runs_root

    return Store(runs_root(context.params.get("runs")))


def _models(context: Any) -> Iterable[str]:
    return list(_store(context).model_names())


def _evaluations(context: Any) -> Iterable[str]:
    return list(_store(context).evaluation_ids())


def _suites(context: Any) -> Iterable[str]:
    del context
    from robench.suites.suite import names

    return names()


def _datasets(context: Any) -> Iterable[str]:
    del context
    from robench.data.catalogue import DATASETS

    return DATASETS


def _kinds(context: Any) -> Iterable[str]:
    del context
    from robench.cli.listing import KINDS

    return KINDS


def _shown(context: Any) -> Iterable[str]:
    plugins = _plugins("attack", "defense", "detector", "set")(context)
    return sorted({*_models(context), *_evaluations(context), *plugins, *_suites(context)})


def _norms(context: Any) -> Iterable[str]:
    del context
    from robench.norms import NORMS

    return NORMS


# by command and parameter, or by parameter in every command; several names stand with commas between
COMPLETIONS: dict[tuple[str, str], Names] = {
    ("", "models"): _models,
    ("", "model"): _models,
    ("", "surrogate"): _models,
    ("", "guide"): _models,
    ("", "attack"): _plugins("attack", "set"),
    ("", "trained_on"): _plugins("attack"),
    ("", "detector"): _plugins("detector"),
    ("", "defense"): _plugins("defense"),
    ("", "suite"): _suites,
    ("", "dataset"): _datasets,
    ("", "norm"): _norms,
    ("", "evaluations"): _evaluations,
    ("", "effort"): _choice("quick", "standard", "thorough"),
    ("", "executor"): _choice("inline", "ray"),
    ("", "search_precision"): _choice("fp32", "bf16", "auto"),
    ("", "scale"): _choice("smoke", "cpu", "paper"),
    ("list", "kind"): _kinds,
    ("show", "name"): _shown,
    ("show", "kind"): _choice("attack", "defense", "detector", "set", "suite"),
    ("test-plugin", "name"): _plugins("attack", "defense", "detector"),
}


def completer(command: str, parameter: str) -> Callable[[Any, Any, str], list[str]] | None:
    """What completes a command's parameter, as typer calls it; None where that has no names."""
    names = COMPLETIONS.get((command, parameter)) or COMPLETIONS.get(("", parameter))
    if names is None:
        return None

    def complete(context: Any, _: Any, typed: str) -> list[str]:
        before, comma, last = typed.rpartition(",")
        try:
            found = names(context)
        except Exception:  # a broken store or plugin says so when it is used
            return []
        return [f"{before}{comma}{name}" for name in found if name.startswith(last)]

    return complete
