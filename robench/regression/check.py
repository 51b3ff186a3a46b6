"""A baseline against the models of today: evaluated in the same way, compared example by example."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from robench.data_names import with_settings
from robench.device import check_device
from robench.errors import BadInput, require, unknown
from robench.evaluation.address import SIZE, Address, How
from robench.evaluation.attacks import attack_at
from robench.evaluation.jobs import Target, make_job, open_target
from robench.evaluation.request import check_dataset
from robench.evaluation.scheduler import evaluate_one
from robench.models import load_model
from robench.ranges import hold
from robench.regression.baseline import Baseline, Kept
from robench.regression.own_store import finish, own_store
from robench.regression.pairs import Pair, lacking, lines_of
from robench.regression.report import Checked
from robench.regression.verdict import CLEAN_METRIC, Line, Terms, Verdict, judge
from robench.store.files import digest
from robench.store.known import allow
from robench.store.runs import Store
from robench.trust.gates import Finding

# what a line that rose asks for
HOLD = "make the baseline anew to hold the gain, if 'robench diagnose' finds nothing against it"
# a model by reference, or itself
Model = str | nn.Module


@dataclass(frozen=True)
class Rerun:
    """How to evaluate again: which models stand in for the baseline's, by its names for them, and on what to run.

    batch_size, shard_size: None for what the baseline says an evaluation depends on, else 250, where they are speed.
    reuse: whether rows that earlier commands stored are taken. They are as old as the code that they were made with,
    and a change that a model's digest and its clean answers do not show goes unseen. trust: whether code is run that
    only the baseline names, which anybody can have written.
    """

    models: Mapping[str, Model] = field(default_factory=dict)
    dataset: str | None = None
    batch_size: int | None = None
    shard_size: int | None = None
    device: str = "auto"
    data_root: Path | None = None
    reuse: bool = False
    trust: bool = False

    def __post_init__(self) -> None:
        check_dataset(self.dataset)
        hold(self, batch_size="--batch-size?", shard_size="--shard-size?")
        check_device(self.device)

    def address(self, kept: Kept) -> Address:
        """Where an evaluation of a baseline is today."""
        spec = kept.spec
        return Address(
            model=self.models.get(kept.model, kept.reference),
            attack=spec.attack,
            options=kept.given_options,
            threat=kept.threat,
            dataset=self.dataset or kept.dataset,
            count=spec.count,
            start=spec.start,
            imported=spec.imported,
            seed=spec.seed,
            surrogate=kept.surrogate or None,
            eot=spec.eot or 1,
            bpda=tuple(spec.bpda or ()),
            search_precision=spec.search_precision or "fp32",
            max_passes=spec.max_passes,
            how=How(
                batch_size=_first(self.batch_size, kept.batch_size, SIZE),
                shard_size=_first(self.shard_size, kept.shard_size, SIZE),
                device=self.device,
                data_root=self.data_root,
            ),
        )


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)


def check(baseline: Baseline, store: Store, rerun: Rerun | None = None, terms: Terms | None = None) -> Checked:
    """Evaluate a baseline's models anew, as it says, and compare example by example.

    The evaluations lie in a folder of the check's own under the store's checks/, where an interrupted check of the same
    baseline, models and code goes on; with `rerun.reuse` they are the store's. Raises BadInput before anything is
    computed where a model is missing, the data are others, or robench would no longer attack in the same way; and for a
    model whose answers cannot be compared.
    """
    rerun, terms = rerun or Rerun(), terms or Terms()
    _known(rerun.models, baseline)
    plan = _plan(baseline, rerun, store)
    if rerun.reuse:
        return _compare(baseline.name, plan, store, terms)
    with own_store(store, _key(baseline, rerun), baseline.name) as own:
        checked = _compare(baseline.name, plan, own, terms)
        if not checked.of(Verdict.INCOMPLETE):
            finish(own)
        return checked


def _key(baseline: Baseline, rerun: Rerun) -> str:
    """What a check is of: the baseline, and the models in place of its own; 12 hex digits."""
    models = {name: model if isinstance(model, str) else type(model).__name__ for name, model in rerun.models.items()}
    return digest([baseline.checksum, models])[:12]


def _compare(name: str, plan: Sequence[tuple[Kept, Address]], store: Store, terms: Terms) -> Checked:
    """Evaluate what the plan says and compare."""
    pairs, lasting = list[Pair](), dict[str, None]()
    findings: dict[tuple[object, ...], list[Finding]] = {}
    digests: dict[str, set[str]] = {}
    for kept, address in plan:
        done = evaluate_one(address, store)
        (result,) = done.results
        lasting |= dict.fromkeys(done.refused)
        _one_model(kept.model, result.model_digest, digests)
        pairs.append(Pair.of(kept, result, store))
        if done.findings:  # of all runs on the same images so far, so the later ones hold the earlier ones
            findings[kept.model, kept.spec.data_digest, kept.spec.norm, kept.spec.count] = done.findings
    lines = judge(lines_of(pairs), terms)
    alone, blind = lacking(pairs), [line.blindness for line in lines if line.blindness]
    gains = _gains(lines, alone)
    news = [pair.news for pair in pairs if pair.news]
    news += [_edited(pair) for pair in pairs if pair.other]
    return Checked(name, lines, terms, (*blind, *gains, *news, *alone.values(), *_fired(findings)), tuple(lasting))


def _gains(lines: Sequence[Line], alone: Collection[str]) -> list[str]:
    """A sentence per line that rose, of models without a doubt. alone: those whose rise under attack is no gain yet, as
    nothing could show that they hide their gradients."""
    doubted = {line.model for line in lines if line.doubts}
    told = []
    for line in lines:
        if line.verdict is Verdict.ROSE and line.model not in doubted:
            unsure = line.model in alone and line.metric != CLEAN_METRIC
            then = "no gain before another attack says so" if unsure else HOLD
            told.append(f"{line.model} rose on {line.attack}; {then}.")
    return told


def _edited(pair: Pair) -> str:
    """What it means for a line that the attack is not what it was."""
    return (
        f"{pair.kept.model} under {pair.kept.label}: {pair.other}, so a rise says nothing of the model, and a fall may "
        "be the attack's; check with the attack as it was, or attack the baseline's own model with this one and make "
        "the baseline of that."
    )


def _fired(findings: Mapping[tuple[object, ...], Sequence[Finding]]) -> list[str]:
    """A sentence per diagnostic that fired, each once; the keys begin with the model."""
    told = [f"{key[0]}: {found.gate} ({found.evidence}); {found.advice}."
            for key, group in findings.items() for found in group if found.fired]  # fmt: skip
    return list(dict.fromkeys(told))


def substitutes(model: Model | Mapping[str, Model] | None, baseline: Baseline) -> tuple[Baseline, Mapping[str, Model]]:
    """The part of a baseline that a model stands for, and what is evaluated in place of that part's models.

    None: all of it, with the models it refers to. A mapping from the baseline's names: those models, each replaced. A
    name in the baseline: that model, as the baseline refers to it. Any other reference, or a module: in place of the
    baseline's only model. Raises BadInput for a name it does not have, and where it has several models to choose from.
    """
    if model is None:
        return baseline, {}
    if isinstance(model, str) and model in baseline.models:
        return baseline.only([model]), {}
    if isinstance(model, Mapping):
        require(
            bool(model), "the mapping of models to check", model, f"not empty: name some of {list(baseline.models)}"
        )
        _known(model, baseline)
        return baseline.only(model), model
    if len(baseline.models) > 1:
        what = repr(model) if isinstance(model, str) else f"a {type(model).__name__}"
        raise BadInput(
            f"The baseline {baseline.name} has {len(baseline.models)} models ({', '.join(baseline.models)}), and "
            f"{what} could stand for any; say for which one, by the baseline's name for it."
        )
    return baseline, dict.fromkeys(baseline.models, model)


def _known(models: Mapping[str, Model], baseline: Baseline) -> None:
    for name in models:
        if name not in baseline.models:
            raise unknown(f"model in {baseline.name}", name, baseline.models)


def _plan(baseline: Baseline, rerun: Rerun, store: Store) -> list[tuple[Kept, Address]]:
    """Each evaluation with its address today; raises BadInput for the first that would not be the same evaluation."""
    plan = [(kept, rerun.address(kept)) for kept in baseline.kept]
    opened: dict[tuple[str, str], Target] = {}
    digests: dict[str, set[str]] = {}
    for kept, address in plan:
        key = (kept.model, kept.dataset)
        _allowed(kept, rerun, baseline.name)
        if key not in opened:
            _one_model(kept.model, _find(kept, address, store, baseline.name), digests)
            opened[key] = _loaded(_open(address.model, address, store))
            _one_model(kept.model, opened[key].model.digest, digests)
        _same_evaluation(kept, address, opened[key], store, baseline.name)
    return plan


def _allowed(kept: Kept, rerun: Rerun, name: str) -> None:
    """Raise BadInput where the baseline names code that this user has not run, and nobody said to."""
    if kept.model not in rerun.models:
        allow(kept.reference, f"The baseline {name}", f"give --model {kept.model}=REFERENCE", rerun.trust)
    if kept.surrogate:
        allow(kept.surrogate, f"The baseline {name}", "evaluate with that surrogate yourself", rerun.trust)


def _open(model: Model, address: Address, store: Store) -> Target:
    return open_target(model, store, address.dataset, address.how.data_root, address.classes)


def _loaded(target: Target) -> Target:
    """The target, its module's code imported, as what a check has loaded is to be told from what it had another day."""
    if target.model.module is not None and target.model.data is not None:
        target.model.release()
    return target


def _one_model(name: str, digest: str, digests: dict[str, set[str]]) -> None:
    """Note the digest of a model; raise BadInput where it had another before in this check."""
    found = digests.setdefault(name, set())
    found.add(digest)
    if len(found) > 1:
        raise BadInput(
            f"The model {name!r} is another one each time it is loaded (digests {', '.join(sorted(found))}), so its "
            "lines would be about different models; seed the numbers that its factory draws."
        )


def _find(kept: Kept, address: Address, store: Store, name: str) -> str:
    """The digest of the model; raises BadInput where it cannot be loaded."""
    advice = f"say where it is with --model {kept.model}=REFERENCE"
    if not address.model:
        raise BadInput(f"The model {kept.model!r} of {name} was handed over in a program; {advice}.")
    try:
        return load_model(address.model, store).digest
    except BadInput as error:
        raise BadInput(f"The model {kept.model!r} of {name} cannot be loaded; {advice}. {error}") from error


def _same_evaluation(kept: Kept, address: Address, target: Target, store: Store, name: str) -> None:
    """Raise BadInput unless the address is that of the evaluation that was kept, but for the model."""
    spec, data = kept.spec, target.dataset
    way = address.way(data)
    if way != spec.draw and data.drawn(spec.draw).digest == spec.data_digest:
        raise BadInput(
            f"The {spec.count:,} images of {kept.label} in {name} are drawn {way or 'first'} today and were "
            f"{spec.draw or 'first'}; give --dataset '{with_settings(data.name, draw=spec.draw or 'first')}', or make "
            "the baseline anew."
        )
    if data.drawn(spec.draw).digest != spec.data_digest:
        raise BadInput(
            f"The test images of {target.dataset.name} are not those that {name} was made on; give the same data with "
            "--data or --dataset, or make the baseline anew."
        )
    named = attack_at(address)
    if kept.metric != named.metric:
        raise BadInput(
            f"{name} calls the figure of {kept.label} {kept.metric}, but the attack's is {named.metric}; restore "
            "the file from git, or make the baseline anew with 'robench baseline'."
        )
    source = None if address.surrogate is None else _loaded(_open(address.surrogate, address, store))
    now = make_job(address, store, target, named, source).spec.to_json()
    sizes = {"batch_size": kept.batch_size, "shard_size": kept.shard_size}  # of before a spec had them
    then = {name: size for name, size in sizes.items() if size not in (None, SIZE)} | kept.spec.to_json()
    for field_name in sorted({*then, *now} - {"model_digest", "sources"}):  # whose code is another is said
        if now.get(field_name) != then.get(field_name):
            raise BadInput(
                f"The {field_name.replace('_', ' ')} of {kept.label} is {now.get(field_name)} today, but was "
                f"{then.get(field_name)} in {name}, so figures cannot be compared; make the baseline anew with "
                "'robench baseline'."
            )
