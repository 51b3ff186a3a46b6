"""The application: its commands, and errors turned into one sentence and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any

import typer
from typer.exceptions import Abort, Exit, TyperException

from robench import progress
from robench.cli import (
    advise,
    baseline,
    check,
    compare,
    cost,
    data,
    diagnose,
    evaluate,
    export,
    figure,
    import_,
    leaderboard,
    listing,
    quickstart,
    reproduce,
    runs,
    show,
    test_plugin,
    train,
    verify,
    view,
)
from robench.cli.panels import Command
from robench.errors import RobenchError, crash
from robench.text import terminal

app = typer.Typer(
    name="robench",
    help="A benchmark harness for adversarial robustness: train defenses, attack them, re-check every figure.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# commands that first load what they compute with, which takes seconds
SLOW = (
    "quickstart",
    "train",
    "evaluate",
    "reproduce",
    "diagnose",
    "advise",
    "verify",
    "baseline",
    "check",
    "test-plugin",
    "export",
    "import",
    "compare",
    "view",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from robench.environment import __version__

        terminal.tell(f"robench {__version__}")
        raise Exit


@app.callback()
def group(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Also print the traceback of whatever fails (before the command's name).")
    ] = False,
) -> None:
    """What every command shares."""
    progress.debug(debug)
    if context.invoked_subcommand in SLOW and not {"-h", "--help"} & set(sys.argv):
        terminal.wait("Starting ...")


app.command("quickstart", cls=Command)(quickstart.quickstart)
app.command("train", cls=Command)(train.train)
app.command("evaluate", cls=Command)(evaluate.evaluate)
app.command("reproduce", cls=Command)(reproduce.reproduce)
app.command("diagnose", cls=Command)(diagnose.diagnose)
app.command("advise", cls=Command)(advise.advise)
app.command("leaderboard", cls=Command)(leaderboard.leaderboard)
app.command("view", cls=Command)(view.view)
app.command("verify", cls=Command)(verify.verify)
app.command("baseline", cls=Command)(baseline.baseline)
app.command("check", cls=Command)(check.check)
app.command("compare", cls=Command)(compare.compare)
app.command("cost", cls=Command)(cost.cost)
app.command("export", cls=Command)(export.export)
app.command("import", cls=Command)(import_.import_)
app.command("list", cls=Command)(listing.list_)
app.command("show", cls=Command)(show.show)
app.command("test-plugin", cls=Command)(test_plugin.check_plugin)
app.add_typer(data.app, name="data")
app.add_typer(figure.app, name="figure")
app.add_typer(runs.app, name="runs")

INTERRUPTED = 130
# a shell that completes a line sets it
COMPLETING = "_ROBENCH_COMPLETE"
QUIT = (
    "Code of a model or a plugin tried to end the process ({}), so there is no result; mend it and run the same "
    "command again."
)
STOPPED = "Interrupted; what was finished is kept, and the same command goes on from there."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 fine, 1 a check failed, 2 bad input, 3 incomplete."""
    _open_streams()
    progress.debug(False)
    with terminal.escaped():
        try:
            return _run(arguments)
        finally:
            if arguments is not None:  # else the process ends, and what user code prints at its end is none of ours
                terminal.release()


@cache
def _parser() -> Any:
    """All commands with their options, which take 60 ms to read."""
    return typer.main.get_command(app)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = _parser().main(args=list(arguments) if arguments is not None else None, standalone_mode=False)
        sys.stdout.flush()  # what cannot be printed is found here, not when Python ends
    except RobenchError as error:
        progress.trace(error)
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
        return _unread()
    except SystemExit as stop:
        if COMPLETING in os.environ:  # the shell has what it asked for
            return int(stop.code or 0)
        if isinstance(stop.__context__, BrokenPipeError):  # what the parser makes of it
            return _unread()
        progress.trace(stop)
        return _say(QUIT.format(type(stop).__name__), 3)
    except GeneratorExit as error:
        progress.trace(error)
        return _say(QUIT.format(type(error).__name__), 3)
    except OSError as error:
        progress.trace(error)
        _give_up_output()
        where = f" {error.filename}" if error.filename else ""
        return _say(f"Cannot read or write{where} ({error.strerror or error}); check the path and try again.", 2)
    except Exception as error:  # of a plugin, a model, or robench itself
        progress.trace(error)
        return _say(f"The command failed with {crash(error)}; 'robench --debug ...' shows the traceback.", 2)
    if code == INTERRUPTED:  # what the parser makes of Ctrl-C
        return _stopped(arguments)
    return int(code) if isinstance(code, int) else 0


def _give_up_output() -> None:
    """Drop what cannot be printed, as on a full disk, lest Python ends by saying so in its own way."""
    try:
        sys.stdout.flush()
    except OSError:
        terminal.abandon()


def _unread() -> int:
    """The exit code where the reader of our output has left, as `head` does."""
    terminal.abandon()
    return 128 + signal.SIGPIPE


def _stopped(arguments: Sequence[str] | None) -> int:
    """The exit code after Ctrl-C. A second one finds a process that is leaving already, and changes nothing."""
    if arguments is None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return _say(STOPPED, INTERRUPTED)


def _say(text: str, code: int) -> int:
    if text:
        terminal.say(text)
    return code


def _open_streams() -> None:
    """Put the null device where a standard stream was closed, as by `>&-`.

    Python has no object for it then, and the next file to be opened, a model's weights say, would get its number, and
    with it what libraries print.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        mode = "r" if name == "stdin" else "w"
        null = os.open(os.devnull, os.O_RDONLY if name == "stdin" else os.O_WRONLY)
        try:
            os.fstat(number)
        except OSError:
            os.dup2(null, number)
        if null != number:
            os.close(null)
        setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for the whole process


def _sentence(message: str) -> str:
    """The parser's message as one sentence ending in what to do."""
    flat = " ".join(message.split()).rstrip(".")
    if not flat:
        return ""
    said, asked, hint = flat.partition(". Did you mean ")
    return f"{said}; {f'did you mean {hint} See' if asked else 'see'} 'robench --help'."
