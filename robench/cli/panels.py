"""How a command's help reads: its options under headings, and two ways to use it."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from robench.cli.completion import completer
from robench.errors import BadInput

OTHER = "Other"
# the headings in their order, with the options below each, by the names of the parameters
PANELS = {
    "Models": (
        "model", "model_option", "weights", "mean", "std", "pixels", "output", "binary", "log_probabilities",
        "beside",
    ),
    "Data": (
        "dataset", "every", "scale", "copies", "data", "classes", "count", "ids", "draw", "least", "labels_from",
        "one_hot",
        "layout", "range_",
    ),
    "Attacks": (
        "attack", "eps", "norm", "restarts", "steps", "effort", "targets", "option", "seed", "eot", "bpda", "surrogate",
        "guide", "cascade", "max_passes", "search_precision",
    ),
    "Detector": ("detector", "trained_on", "trained_option", "fpr", "detector_images", "adaptive"),
    "Training": ("recipe", "epochs", "seeds", "backbone", "precision", "watch", "name"),
    "Figure": ("which", "reach", "points", "unclipped", "method"),
    "Verdict": ("again", "alpha", "max_drop", "reuse"),
    "Where and how fast": (
        "executor", "workers", "cpus_per_task", "gpus_per_task", "address", "batch_size", "shard_size", "device",
    ),
    "What is kept and printed": (
        "runs", "to", "out", "uint8", "force", "stored", "fresh", "dry_run", "as_json", "probes", "log_to", "config",
        "save_config", "trust", "junit",
        "markdown", "claims", "keep", "open_", "page",
    ),
}  # fmt: skip
HEADING = {name: heading for heading, names in PANELS.items() for name in names}
# by command: what it is for, and the line
EXAMPLES = {
    "quickstart": (("a first table", "robench quickstart"), ("somewhere else", "robench quickstart --runs /tmp/runs")),
    "train": (
        ("a defense, as its quick recipe has it", "robench train paradise-pm --dataset mnist"),
        ("with another weight, and seed", "robench train dvib --dataset digits -o beta=0.001 --seed 1"),
    ),
    "evaluate": (
        ("the worst case of a model of one's own",
         "robench evaluate my_model.py:load --dataset cifar10 -a standard --eps 8/255 -n 1000"),
        ("two attacks in L2 on everything that was trained",
         "robench evaluate -a pgd,fab-t --norm l2 --eps 0.5 -o steps=100"),
    ),
    "reproduce": (
        ("what a table would cost", "robench reproduce guess-first-mnist --dry-run"),
        ("every table that is done, and the papers' claims", "robench reproduce --all --stored"),
    ),
    "diagnose": (
        ("whether a figure can be trusted", "robench diagnose my_model.py:load --dataset mnist --eps 0.3 -n 200"),
        ("also with what transfers from another model", "robench diagnose mine --surrogate standard-mnist"),
    ),
    "advise": (
        ("the cheapest order of attacks", "robench advise madry-mnist"),
        ("in L2", "robench advise madry-mnist --norm l2"),
    ),
    "leaderboard": (
        ("everything", "robench leaderboard --out tables"),
        ("without what was only tried", "robench leaderboard --dataset mnist --norm linf --least 1000"),
    ),
    "view": (
        ("a page of everything", "robench view --open"),
        ("of another runs folder, to be sent along", "robench view /data/runs --out page"),
    ),
    "verify": (
        ("everything that is stored", "robench verify"),
        ("one evaluation, and the attack once more", "robench verify 4f0c --again 20"),
    ),
    "baseline": (
        ("what a build is held against", "robench baseline madry-mnist -o baseline.json"),
        ("of a whole table", "robench baseline er-detectors-mnist --scale cpu -o baseline.json"),
    ),
    "check": (
        ("whether a build lost robustness", "robench check baseline.json"),
        ("with a report for the build", "robench check baseline.json --junit report.xml"),
    ),
    "compare": (
        ("two models, image by image", "robench compare madry-mnist trades-mnist"),
        ("under one attack alone", "robench compare madry-mnist trades-mnist -a pgd"),
    ),
    "export": (
        ("images and rows for numpy", "robench export 4f0c --to npz --out images.npz"),
        ("as PNG that the model is asked about again", "robench export 4f0c --to folder --out images --uint8"),
    ),
    "import": (
        ("images that another program made", "robench import images.npz --model mine.py:load --dataset mnist"),
        ("under a name of their own", "robench import x_adv.pt --model madry-mnist --eps 0.3 --name theirs"),
    ),
    "cost": (
        ("accuracy against passes", "robench cost 4f0c"),
        ("two evaluations side by side", "robench cost 4f0c 9a11"),
    ),
    "list": (("the kinds there are", "robench list"), ("what was run", "robench list evaluations --model madry-mnist")),
    "show": (
        ("an attack's options and cost", "robench show standard"),
        ("an evaluation, and the command that made it", "robench show 4f0c"),
    ),
    "test-plugin": (
        ("an attack that is installed", "robench test-plugin my-attack"),
        ("what a program makes of it", "robench test-plugin my-attack --json"),
    ),
}  # fmt: skip


class Command(TyperCommand):
    """A command whose options stand under headings, whose help ends in examples, and whose names a shell completes."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        for parameter in self.params:
            found = completer(str(self.name), str(parameter.name))
            if found is not None:
                parameter._custom_shell_complete = found

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The parser's, which would forget all but the last of an option that takes several with commas between."""
        before = args[: args.index("--")] if "--" in args else args
        for parameter in self.params:
            if "[," in (getattr(parameter, "metavar", None) or "") and not getattr(parameter, "multiple", False):
                given = [word for word in before if word.partition("=")[0] in parameter.opts]
                if len(given) > 1:
                    option = given[0].partition("=")[0]
                    raise BadInput(f"{option} is given {len(given)} times; give it once, with commas between.")
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments first, then the headings in their order."""
        found: dict[str, list[tuple[str, str]]] = {title: [] for title in ("Arguments", *PANELS, OTHER)}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                argument = parameter.param_type_name == "argument"
                found["Arguments" if argument else HEADING.get(str(parameter.name), OTHER)].append(record)
        for title, records in found.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """The examples, each on a line of its own, to be copied."""
        examples = EXAMPLES.get(str(self.name), ())
        if examples:
            with formatter.section("Examples"):
                for purpose, line in examples:
                    formatter.write(f"{'':>{formatter.current_indent}}# {purpose}\n")
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
