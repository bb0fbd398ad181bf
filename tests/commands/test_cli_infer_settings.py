"""The section `[inference]`: files and `--set` say what options say, and options have the last word."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ufbert import Pipeline
from ufbert.commands.app import main
from ufbert.errors import ConfigError
from ufbert.settings.inference import InferenceSettings

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own with a table of texts."""
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("sentence,other,text\nthe [MASK] dog,a fox,she [MASK] shells\n")
    return Path("rows.csv")


def infer(capsys: Capture, checkpoint: Path, *options: str, code: int = 0) -> tuple[dict[str, Any], str]:
    """(the row on standard output, what was said) of a run over the table that must end with `code`."""
    with pytest.raises(SystemExit) as end:
        main(["infer", str(checkpoint), "rows.csv", *options])
    shown = capsys.readouterr()
    assert (end.value.code or 0) == code, shown.err
    return json.loads(shown.out) if shown.out else {}, shown.err


def test_options_over_config_over_folder_over_defaults(capsys: Capture, tiny_checkpoints: dict[str, Path]) -> None:
    checkpoint = tiny_checkpoints["masked_lm"]
    row, said = infer(capsys, checkpoint)
    assert (row["text"], len(row["masks"][0])) == ("she [MASK] shells", 5)
    Path("ufbert.toml").write_text('[inference]\ntext_column = "sentence"\ntop_k = 2\nprecision = "float32"\n')
    row, said = infer(capsys, checkpoint)
    assert (row["sentence"], len(row["masks"][0])) == ("the [MASK] dog", 2)
    assert "float32" in said
    Path("own.toml").write_text("[inference]\ntop_k = 3\nkeep_text = false\n")
    row, said = infer(capsys, checkpoint, "--config", "own.toml")
    assert (list(row), len(row["masks"][0])) == (["masks", "filled"], 3)
    row, _ = infer(capsys, checkpoint, "--config", "own.toml", "--set", "inference.top_k=4", "--keep-text")
    assert (list(row), len(row["masks"][0])) == (["sentence", "masks", "filled"], 4)
    row, _ = infer(capsys, checkpoint, "--config", "own.toml", "--top-k", "1", "--text-column", "other", code=1)
    row, _ = infer(capsys, checkpoint, "--config", "own.toml", "--top-k", "1", "--text-column", "text", "--keep-text")
    assert (row["text"], len(row["masks"][0])) == ("she [MASK] shells", 1)


def test_every_setting_of_a_file_reaches_the_pipeline(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tiny_checkpoints: dict[str, Path]
) -> None:
    made: list[Pipeline] = []
    initialise = Pipeline.__init__

    def remember(pipeline: Pipeline, *arguments: Any, **options: Any) -> None:
        initialise(pipeline, *arguments, **options)
        made.append(pipeline)

    monkeypatch.setattr(Pipeline, "__init__", remember)
    Path("ufbert.toml").write_text(
        '[inference]\ntask = "embed"\ntext_column = "other"\npair_column = "sentence"\npooling = "cls"\n'
        'normalize = true\nmax_length = 8\nlong_text = "window"\nstride = 0\nbatch_size = 3\nprecision = "float32"\n'
        'device = "cpu"\nbackend = "reference"\n'
    )
    row, said = infer(capsys, tiny_checkpoints["masked_lm"])
    assert "embed (cls pooling, of length 1)" in said
    assert "backend reference" in said
    assert (row["other"], row["sentence"]) == ("a fox", "the [MASK] dog")
    assert np.linalg.norm(row["embedding"]) == pytest.approx(1.0, abs=1e-6)
    (pipeline,) = made
    assert (pipeline.max_length, pipeline.overlap, pipeline.batch_size) == (8, 0, 3)
    infer(capsys, tiny_checkpoints["masked_lm"], "--no-normalize", "--set", "inference.max_length=auto")
    assert (made[-1].max_length, made[-1].normalize) == (32, False)


def test_a_file_may_serve_several_tasks_an_option_may_not(capsys: Capture, tiny_checkpoints: dict[str, Path]) -> None:
    Path("ufbert.toml").write_text('[inference]\ntop_k = 2\npooling = "cls"\nnormalize = true\nstride = 3\n')
    row, _ = infer(capsys, tiny_checkpoints["masked_lm"])
    assert len(row["masks"][0]) == 2
    _, said = infer(capsys, tiny_checkpoints["encoder"])
    assert "embed (cls pooling, of length 1)" in said
    row, _ = infer(capsys, tiny_checkpoints["classifier"])
    assert "label" in row
    for options, message in (
        (["--pooling", "cls"], "pooling is an option of the task embed; the task here is classify"),
        (["--top-k", "2"], "top_k is an option of the task fill-mask; the task here is classify"),
        (["--stride", "3"], "stride is an option of long_text 'window'"),
    ):
        _, said = infer(capsys, tiny_checkpoints["classifier"], *options, code=1)
        assert said.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('max_length = "long"', "ufbert.toml:2: inference.max_length must be a whole number or auto, not 'long'"),
        ("batch_size = 0", "ufbert.toml:2: inference.batch_size must be at least 1, not 0"),
        ("stride = -1", "ufbert.toml:2: inference.stride must be at least 0, not -1"),
        ("threads = 1.5", "ufbert.toml:2: inference.threads must be a whole number or a string, not 1.5"),
        ('normalize = "yes"', "ufbert.toml:2: inference.normalize must be true, false or auto, not 'yes'"),
        ('pooling = "median"', "ufbert.toml:2: inference.pooling must be one of auto, cls, max, mean, mean_sqrt_len"),
        ("truncate_dim = 0", "ufbert.toml:2: inference.truncate_dim must be at least 1, not 0"),
        (
            'task = "translate"',
            "ufbert.toml:2: inference.task must be one of auto, fill-mask, classify, tag, embed, not",
        ),
        ('text_column = ""', "ufbert.toml:2: inference.text_column is empty; name the column of the text"),
        ("topk = 3", "ufbert.toml:2: unknown key inference.topk; did you mean top_k?"),
    ],
)
def test_mistakes_name_file_and_line(
    capsys: Capture, tiny_checkpoints: dict[str, Path], line: str, message: str
) -> None:
    Path("ufbert.toml").write_text(f"[inference]\n{line}\n")
    _, said = infer(capsys, tiny_checkpoints["masked_lm"], code=1)
    assert said.startswith(f"error: {message}")


def test_settings_are_checked_where_they_are_made() -> None:
    with pytest.raises(ConfigError, match=r"inference.top_k must be at least 1, not 0"):
        InferenceSettings(top_k=0)


def test_help_shows_the_defaults_and_imports_nothing_heavy() -> None:
    heavy = ("torch", "numba", "datasets", "numpy", "pyarrow", "transformers", "sklearn", "tokenizers")
    code = (
        "import sys\nfrom ufbert.commands.app import main\n"
        "try:\n    main(['infer', '--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip().endswith("[]")
    for option in ("--config", "--set", "--top-k"):
        assert option in result.stdout
    assert f"({InferenceSettings().top_k})" in result.stdout
