"""All of GLUE: a finetuning run for every checkpoint, task and seed, and the table over them.

The folder holds `CHECKPOINT/TASK/seed-N` for every run, `predictions/CHECKPOINT/seed-N` for the GLUE server, and
`plan.json`, what the runs have in common. A second
call with the same folder skips the runs that are complete, which the last line of their metrics.jsonl says.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ufbert.checkpoint.folder import locate_checkpoint
from ufbert.errors import ConfigError, DataError, OutputError
from ufbert.reporting import console, note
from ufbert.system.atomic import check_new, write_file

from .epochs import METRICS_FILE
from .glue_data import glue_tasks_in
from .glue_files import write_tables
from .glue_server import SERVER_FILES, ServerSet, find_test_sets, write_predictions
from .glue_table import GlueRun, GlueTable
from .request import FinetuningRequest, GlueRequest
from .run import PREDICTIONS, finetune
from .tasks import GlueTask

__all__ = ["GlueResult", "run_glue"]

PLAN_FILE = "plan.json"


@dataclass(frozen=True)
class GlueResult:
    """Where the runs and the tables are, and the figures."""

    folder: Path
    table: GlueTable


def run_glue(request: GlueRequest) -> GlueResult:
    """Finetune every checkpoint on every task with every seed, as far as that is not done, and write the table.

    The tasks are those found in `request.data.data`, or all on the hub. Writes `glue.md`, `glue.csv` and
    `glue.json` beside the runs. Raises what `finetune` raises, and `ConfigError` for a folder whose runs were
    asked for in other terms; complete runs stay, so that the same call goes on where this one ended.
    """
    out = request.out
    tasks = glue_tasks_in(request.data.data)
    checkpoints = {
        label: locate_checkpoint(checkpoint, request.revision)
        for label, checkpoint in zip(request.labels, request.checkpoints, strict=True)
    }
    tests = _test_sets(tasks, request) if request.predict else {}
    _agree_on_plan(request, checkpoints)
    total = len(checkpoints) * len(tasks) * len(request.seeds)
    note(
        f"{_counted(total, 'run')} in {out}: {_counted(len(checkpoints), 'checkpoint')}, "
        f"{_counted(len(tasks), 'task')} ({', '.join(t.name for t in tasks)}), {_counted(len(request.seeds), 'seed')}"
    )
    runs: list[GlueRun] = []
    skipped = 0
    for (label, task, seed), checkpoint in {
        (label, task, seed): checkpoint
        for label, checkpoint in zip(checkpoints, request.checkpoints, strict=True)
        for task in tasks
        for seed in request.seeds
    }.items():
        folder = out / label / task.name / f"seed-{seed}"
        run = _complete_run(folder, label, task, seed)
        if run is None:
            note(f"run {len(runs) + 1} of {total}: {label}, {task.name}, seed {seed}")
            for test in tests.get(task.name, []):  # of another run that was here
                (_predictions(request, label, seed) / f"{test.name}.tsv").unlink(missing_ok=True)
            _run(request, checkpoint, task, seed, folder)
            run = _complete_run(folder, label, task, seed)
            assert run is not None
        else:
            skipped += 1
        runs.append(run)
        if task.name in tests:
            _predict(request, folder, tests[task.name], _predictions(request, label, seed))
    if skipped:
        note(f"{_counted(skipped, 'run')} of {total} were complete in {out} and were not repeated")
    relative_to = None if request.relative_to is None else request.label_of(request.relative_to)
    table = GlueTable(tuple(runs), tuple(checkpoints), tuple(tasks), request.seeds, relative_to)
    write_tables(table, out)
    for part in table.shown():
        console().print(part)
    for line in table.remarks():
        note(line)
    note(f"tables: {out / 'glue.md'}, glue.csv, glue.json")
    return GlueResult(out, table)


def _run(request: GlueRequest, checkpoint: str, task: GlueTask, seed: int, folder: Path) -> None:
    if folder.is_dir():  # an interrupted run; its folder holds what it had, but cannot be gone on with
        shutil.rmtree(folder)
    finetune(
        FinetuningRequest(
            checkpoint,
            dataclasses.replace(request.data, task=task.name),
            dataclasses.replace(request.settings, seed=seed),
            out=folder,
            revision=request.revision,
            tokenizer=request.tokenizer,
            command=request.command,
        )
    )


def _test_sets(tasks: list[GlueTask], request: GlueRequest) -> dict[str, list[ServerSet]]:
    """Task -> its test sets. Raises `DataError` where no task has any."""
    found: dict[str, list[ServerSet]] = {}
    for task in tasks:
        try:
            found[task.name] = find_test_sets(task, request.data.data, "test")
        except DataError:
            if task is tasks[-1] and not found:
                raise
    names = [test.name for sets in found.values() for test in sets]
    if lacking := [name for name in SERVER_FILES if name not in names]:
        note(f"note: no test set of {', '.join(lacking)} in the data; the GLUE server takes only complete submissions")
    return found


def _predictions(request: GlueRequest, label: str, seed: int) -> Path:
    """The folder of one submission."""
    return request.out / PREDICTIONS / label / f"seed-{seed}"


def _predict(request: GlueRequest, model: Path, tests: list[ServerSet], out: Path) -> None:
    missing = [test for test in tests if not (out / f"{test.name}.tsv").is_file()]
    if missing:
        write_predictions(model, missing, out, request.settings)


def _complete_run(folder: Path, label: str, task: GlueTask, seed: int) -> GlueRun | None:
    """The figures of a run that came to its end; None for one that did not, or was not begun."""
    file = folder / METRICS_FILE
    if not file.is_file():
        return None
    try:
        records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        if not records or records[-1]["event"] != "end":
            return None
        return GlueRun.from_records(label, task, seed, records)
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{file}: is not what a finetuning run writes ({error}); remove {folder}") from error


def _agree_on_plan(request: GlueRequest, checkpoints: dict[str, Path]) -> None:
    """Write the plan, or add to it; raise `ConfigError` where the folder's runs had other settings."""
    file = request.out / PLAN_FILE
    plan = _plan(request, checkpoints)
    if file.is_file():
        try:
            old: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            changed = _changes(old, plan)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OutputError(f"{file}: is not a plan of GLUE runs ({error}); choose another --out") from error
        if changed:
            raise ConfigError(
                f"{request.out}: its runs have {'; '.join(changed)}; ask for the same, or choose another --out"
            )
        plan["checkpoints"] = old["checkpoints"] | plan["checkpoints"]
    else:
        check_new(request.out, "GLUE runs")
    with write_file(file, replace=True) as temporary:
        temporary.write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")


def _plan(request: GlueRequest, checkpoints: dict[str, Path]) -> dict[str, Any]:
    """Everything that the figures hang on but task and seed, as plain JSON values."""
    settings = {f"finetuning.{k}": v for k, v in dataclasses.asdict(request.settings).items() if k != "seed"}
    data = request.data
    asked = {
        "--data": "the hub" if data.data is None else str(data.data.absolute()),
        "--max-train-rows": data.max_train_rows,
        "--max-validation-rows": data.max_validation_rows,
        "--tokenizer": None if request.tokenizer is None else str(request.tokenizer.absolute()),
        "--revision": request.revision,
    }
    values: dict[str, Any] = json.loads(json.dumps({**settings, **asked}))
    return {"settings": values, "checkpoints": {label: _identity(folder) for label, folder in checkpoints.items()}}


def _identity(folder: Path) -> list[list[Any]]:
    """Name, size and time of change of what a checkpoint is; contents would take as long to compare as to read."""
    files = sorted(f for f in folder.iterdir() if f.suffix in (".json", ".safetensors"))
    return [[str(f.absolute()), (status := f.stat()).st_size, status.st_mtime_ns] for f in files]


def _changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    changed = [
        f"{key} {old['settings'].get(key)!r}, not {value!r}"
        for key, value in new["settings"].items()
        if old["settings"].get(key) != value
    ]
    changed += [
        f"a checkpoint {label} of other files"
        for label, files in new["checkpoints"].items()
        if label in old["checkpoints"] and old["checkpoints"][label] != files
    ]
    return changed


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
