"""The application: its commands, and errors turned into one sentence and an exit code."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import Abort, Exit, TyperException

from robench.cli import (
    baseline,
    check,
    data,
    diagnose,
    evaluate,
    figure,
    leaderboard,
    listing,
    quickstart,
    reproduce,
    runs,
    show,
    test_plugin,
    train,
    verify,
)
from robench.errors import RobenchError
from robench.text import terminal

app = typer.Typer(
    name="robench",
    help="A benchmark harness for adversarial robustness: train defenses, attack them, re-check every figure.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from robench.environment import __version__

        terminal.tell(f"robench {__version__}")
        raise Exit


@app.callback()
def group(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """What every command shares."""


app.command("quickstart")(quickstart.quickstart)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("reproduce")(reproduce.reproduce)
app.command("diagnose")(diagnose.diagnose)
app.command("leaderboard")(leaderboard.leaderboard)
app.command("verify")(verify.verify)
app.command("baseline")(baseline.baseline)
app.command("check")(check.check)
app.command("list")(listing.list_)
app.command("show")(show.show)
app.command("test-plugin")(test_plugin.check_plugin)
app.add_typer(data.app, name="data")
app.add_typer(figure.app, name="figure")
app.add_typer(runs.app, name="runs")

INTERRUPTED = 130
STOPPED = "Interrupted; what was finished is kept, and the same command goes on from there."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 fine, 1 a check failed, 2 bad input, 3 incomplete."""
    with terminal.escaped():
        try:
            return _run(arguments)
        finally:
            if arguments is not None:  # else the process ends, and what user code prints at its end is none of ours
                terminal.release()


def _run(arguments: Sequence[str] | None) -> int:
    command = typer.main.get_command(app)
    try:
        code = command.main(args=list(arguments) if arguments is not None else None, standalone_mode=False)
    except RobenchError as error:
        return _say(str(error), error.exit_code)
    except TyperException as error:
        if error.format_message().startswith("Usage:"):  # a command without its arguments: the help itself
            terminal.note(*error.format_message().splitlines())
            return 2
        return _say(_sentence(error.format_message()), 2)
    except Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, Abort):
        return _stopped(arguments)
    except BrokenPipeError:
        terminal.abandon()  # the reader of our output has left, as `head` does
        return 128 + signal.SIGPIPE
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        return _say(f"Cannot read or write{where} ({error.strerror or error}); check the path and try again.", 2)
    if code == INTERRUPTED:  # what the parser makes of Ctrl-C
        return _stopped(arguments)
    return int(code) if isinstance(code, int) else 0


def _stopped(arguments: Sequence[str] | None) -> int:
    """The exit code after Ctrl-C. A second one finds a process that is leaving already, and changes nothing."""
    if arguments is None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return _say(STOPPED, INTERRUPTED)


def _say(text: str, code: int) -> int:
    if text:
        terminal.say(text)
    return code


def _sentence(message: str) -> str:
    """The parser's message as one sentence ending in what to do."""
    flat = " ".join(message.split()).rstrip(".")
    return f"{flat}; see 'robench --help'." if flat else ""
