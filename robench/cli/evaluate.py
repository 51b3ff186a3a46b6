"""robench evaluate: attack models and judge the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from robench import norms
from robench.cli import options as shared
from robench.cli.config import Config, SaveConfig, merged, save
from robench.text.terminal import show, tell_json

if TYPE_CHECKING:
    from robench.tables.report import Report

Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODEL]...",
        help="Trained models, file.py:factory, torchvision:NAME, ... ('robench list sources'); none: all trained.",
    ),
]
ModelOptions = Annotated[
    list[str] | None,
    typer.Option("-m", "--model-option", metavar="KEY=VALUE", help="An argument of the model's factory; repeatable."),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights", metavar="FILE", help="A state_dict for the model, or a checkpoint or safetensors of one."
    ),
]
Mean = Annotated[
    str | None, typer.Option("--mean", metavar="X[,X...]", help="Subtracted from pixels before the model sees them.")
]
Std = Annotated[str | None, typer.Option("--std", metavar="X[,X...]", help="What pixels are divided by, after --mean.")]
PixelRange = Annotated[
    str | None,
    typer.Option("--pixels", metavar="LOW..HIGH", help="What pixels of [0, 1] become for the model: -1..1, 0..255."),
]
Output = Annotated[
    str | None,
    typer.Option("--output", metavar="KEY|INDEX", help="Which part of a tuple, dictionary or object is the logits."),
]
Binary = Annotated[
    bool, typer.Option("--binary", help="The model answers with one logit, which speaks for the second of two classes.")
]
Logarithm = Annotated[
    bool, typer.Option("--log-probabilities", help="The model answers with probabilities: take their logarithm.")
]
Attacks = Annotated[
    list[str] | None, typer.Option("-a", "--attack", help="Attacks' or sets' names, with commas between or repeated.")
]
Eps = Annotated[
    str | None,
    typer.Option(
        "--eps", metavar="E[,E...]",
        help=f"Perturbation in pixels of [0, 1]; {norms.default_eps()}. Several: 2/255,4/255 or linf:8/255,l2:0.5.",
    ),
]  # fmt: skip
Norm = Annotated[
    str | None,
    typer.Option(
        "--norm", metavar="NORM[,NORM]",
        help=f"{norms.any_of(norms.NORMS)}, or several (default: those that --eps names, else {norms.DEFAULT}).",
    ),
]  # fmt: skip
Seeds = Annotated[
    str, typer.Option("--seed", metavar="S[,S...]", help="Seed of all randomness; of several, mean and spread.")
]
Dataset = Annotated[str | None, typer.Option("--dataset", help="Data to attack on (default: the model's own).")]
Count = Annotated[
    int | None,
    typer.Option(
        "-n", "--count", parser=shared.whole, metavar="N",
        help="N test images (default: all): the first, or where they come in some order a balanced draw.",
    ),
]  # fmt: skip
Listed = Annotated[
    str | None,
    typer.Option(
        "--ids",
        metavar="FILE",
        help="Test images: an index from 0 or a file's name per line; a .csv may have an eps each.",
    ),
]
Restarts = Annotated[
    int | None,
    typer.Option("--restarts", parser=shared.whole, metavar="N", help="Random starts; short for -o restarts=N."),
]
Steps = Annotated[
    int | None, typer.Option("--steps", parser=shared.whole, metavar="N", help="Steps; short for -o steps=N.")
]
Targets = Annotated[
    int | None,
    typer.Option("--targets", parser=shared.whole, metavar="N", help="Wrong classes to try; short for -o targets=N."),
]
Effort = Annotated[
    str | None,
    typer.Option("--effort", help="How much standard spends: quick, standard or thorough; short for -o effort=NAME."),
]
Draws = Annotated[
    int,
    typer.Option("--eot", parser=shared.whole, metavar="N", help="Passes behind one gradient of a randomised model."),
]
Layers = Annotated[
    list[str] | None,
    typer.Option("--bpda", metavar="LAYER", help="A submodule that gradients pass unchanged (BPDA); repeatable."),
]
Precision = Annotated[
    str,
    typer.Option("--search-precision", help="What attacks take gradients in: fp32, bf16 or auto; verdicts are fp32."),
]
MaxPasses = Annotated[
    int | None,
    typer.Option(
        "--max-passes", parser=shared.whole, metavar="N",
        help="What an image may cost at most: a forward pass is 1, a backward pass 2 more; of a cascade, in all.",
    ),
]  # fmt: skip
Cascade = Annotated[
    bool,
    typer.Option("--cascade", help="Each attack only sees what those before it left standing; figures are of all."),
]
Surrogates = Annotated[
    list[str] | None,
    typer.Option("--surrogate", metavar="MODEL", help="Craft on this model instead (transfer); repeatable."),
]
Guide = Annotated[
    str | None,
    typer.Option("--guide", metavar="MODEL", help="Follow this model's gradients, by the models' own answers."),
]
DetectorName = Annotated[
    str | None,
    typer.Option("--detector", help="Also measure a detector, and attack model and detector together."),
]
TrainedOn = Annotated[
    str,
    typer.Option("--trained-on", help="The attack the detector learns from: NAME, or NAME@linf:0.3 for its own eps."),
]
TrainedOptions = Annotated[
    list[str] | None,
    typer.Option("--trained-option", metavar="KEY=VALUE", help="An option of that attack; repeatable."),
]
Rate = Annotated[
    float,
    typer.Option(
        "--fpr", parser=shared.number, metavar="X", help="Share of clean validation images the detector may reject."
    ),
]
DetectorImages = Annotated[
    int,
    typer.Option(
        "--detector-images", parser=shared.whole, metavar="N", help="Validation images attacked to fit the detector."
    ),
]
Adaptive = Annotated[
    bool, typer.Option("--adaptive/--no-adaptive", help="Whether to attack model and detector together.")
]


def evaluate(
    context: typer.Context,
    models: Models = None,
    attack: Attacks = None,
    eps: Eps = None,
    norm: Norm = None,
    count: Count = None,
    restarts: Restarts = None,
    steps: Steps = None,
    effort: Effort = None,
    targets: Targets = None,
    option: shared.Options = None,
    eot: Draws = 1,
    bpda: Layers = None,
    search_precision: Precision = "fp32",
    max_passes: MaxPasses = None,
    cascade: Cascade = False,
    fresh: shared.Fresh = False,
    surrogate: Surrogates = None,
    guide: Guide = None,
    detector: DetectorName = None,
    trained_on: TrainedOn = "pgd",
    trained_option: TrainedOptions = None,
    fpr: Rate = 0.05,
    detector_images: DetectorImages = 1000,
    adaptive: Adaptive = True,
    dataset: Dataset = None,
    ids: Listed = None,
    classes: shared.Classes = None,
    labels_from: shared.LabelsFrom = None,
    one_hot: shared.OneHot = False,
    layout: shared.Layout = None,
    range_: shared.Reach = None,
    model_option: ModelOptions = None,
    weights: Weights = None,
    mean: Mean = None,
    std: Std = None,
    pixels: PixelRange = None,
    output: Output = None,
    binary: Binary = False,
    log_probabilities: Logarithm = False,
    seed: Seeds = "0",
    log_to: shared.LogTo = None,
    executor: shared.ExecutorName = "inline",
    workers: shared.WorkerCount = None,
    cpus_per_task: shared.Cpus = 1.0,
    gpus_per_task: shared.Gpus = 0.0,
    address: shared.Address = None,
    batch_size: shared.BatchSize = 250,
    shard_size: shared.ShardSize = 250,
    device: shared.Device = "auto",
    runs: shared.Runs = None,
    data: shared.Data = None,
    as_json: shared.Json = False,
    config: Config = None,
    save_config: SaveConfig = None,
) -> int:
    """Attack models and judge the result; what is in the store already is not computed again."""
    from robench.registry import check_names, parse_options, read_attacks

    attacks = read_attacks(attack or [])  # before the seconds it takes to import what attacks
    check_names("detector", [detector] if detector else [])
    check_names("tracker", [text.partition(":")[0] for text in log_to or []])
    from robench.cli.data import named_data
    from robench.detector.request import DetectorRequest
    from robench.evaluation.request import Request
    from robench.evaluation.scheduler import evaluate as run
    from robench.evaluation.several import own_threats, requests_for, seeds_of, threats_of
    from robench.executors.workers import Workers
    from robench.models.settings import ModelSettings
    from robench.progress import say
    from robench.store.runs import Store, runs_root
    from robench.tables.report import Report
    from robench.trackers.sending import send, trackers_of

    dataset, number = named_data(dataset, classes, labels_from, one_hot, layout, range_, ids)
    own = own_threats(dataset, norm, eps)
    threats, seeds, trackers = list(own.values()) or threats_of(norm, eps), seeds_of(seed), trackers_of(log_to or [])
    short = {"restarts": restarts, "steps": steps, "effort": effort, "targets": targets}
    around = ModelSettings.of(
        model_option, weights=weights, mean=mean, std=std, pixels=pixels, output=output, binary=binary,
        log_probabilities=log_probabilities,
    )  # fmt: skip
    request = Request(
        models=around.around(models or []),
        attacks=attacks,
        threat=threats[0],
        dataset=dataset,
        classes=number,
        count=count,
        options={
            **parse_options(merged(context, "option", option)),
            **{k: v for k, v in short.items() if v is not None},
        },
        seed=seeds[0],
        batch_size=batch_size,
        shard_size=shard_size,
        device=device,
        data_root=data,
        surrogates=surrogate or [],
        guide=guide,
        cascade=cascade,
        fresh=fresh,
        eot=eot,
        bpda=bpda or [],
        search_precision=search_precision,
        max_passes=max_passes,
        guard=DetectorRequest(
            detector,
            {},
            trained_on,
            parse_options(merged(context, "trained_option", trained_option)),
            fpr,
            detector_images,
            adaptive,
        )
        if detector
        else None,
    )
    if save_config is not None:
        save(context, save_config)
    first, *others = requests_for(request, norm, eps, seed)
    store = Store(runs_root(runs))
    done = run(first, store, Workers(executor, workers, cpus_per_task, gpus_per_task, address), others)
    report = Report.of(done, store)
    code = _print(report, as_json)
    if eps is None and not own:
        say(f"No --eps was given: {first.threat}, the papers' for CIFAR-10 and little on MNIST, was taken.")
    send(trackers, report)
    return code


def _print(report: Report, as_json: bool) -> int:
    """Print the report and what was refused; returns the exit code."""
    from robench.progress import say

    if as_json:
        tell_json(report.to_json())
    else:
        show(report.tables())
    for sentence in report.refused:
        say(sentence)
    return 2 if report.refused else 0 if report.complete else 3
