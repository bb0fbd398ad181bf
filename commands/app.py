"""The `ufbert` command: registers the subcommands and turns errors into one line and an exit code.

Exit codes: 0 done, 1 the user's mistake (`UfbertError`), 2 wrong usage (Typer's), 130 interrupted, 143 pretraining or
a distillation that SIGTERM has stopped and that has saved.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from ufbert import __version__
from ufbert.errors import UfbertError

from .bench import bench
from .convert import convert
from .finetune import finetune
from .infer import infer
from .pretrain import pretrain

__all__ = ["app", "main"]

app = typer.Typer(
    name="ufbert",
    help="UltraFastBERT: BERT with fast feedforward layers. Pretrain, finetune, convert, infer, bench.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (pretrain, finetune, convert, infer, bench):
    app.command()(command)


def show_version(asked: bool) -> None:
    """Print the version and stop."""
    if asked:
        print(f"ufbert {__version__}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of all commands; `main` reads --debug before Typer does."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line (`sys.argv` by default) and exit."""
    given = sys.argv[1:] if arguments is None else arguments
    # torch's idle OpenMP threads would otherwise spin on the cores that the CMM kernels need next. Some 0.1 ms of
    # spinning bridges the gap between two operators: without it, one text of 128 tokens takes twice as long.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "100000")
    # torch asks for huge pages for tensors of 2 MB and more: the CMM kernels read a layer's weights at random, and
    # with them routing 1,024 tokens and more takes 5 to 8 % less time.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # --debug is accepted anywhere on the line.
    debug = "--debug" in given
    words = [word for word in given if word != "--debug"]
    try:
        app(args=words, prog_name="ufbert", standalone_mode=True, obj=words)
    except UfbertError as error:
        if debug:
            raise
        stop(f"error: {' '.join(str(error).split())}", 1)
    except KeyboardInterrupt:
        stop("interrupted", 130)
    except BrokenPipeError:
        # The reader of stdout has gone, as in `ufbert infer ... | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(0)


def stop(line: str, code: int) -> NoReturn:
    """Print one line to stderr and exit."""
    print(line, file=sys.stderr)
    sys.exit(code)
