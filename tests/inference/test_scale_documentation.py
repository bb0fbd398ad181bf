"""The code of docs/scale.md that needs nothing else to run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ufbert import Pipeline

TEXTS = [f"the fox number {n} jumps over the lazy dog" for n in range(10)]


def code(heading: str, folder: str, checkpoint: Path) -> list[str]:
    """The Python of a section, with `checkpoint` in the place of its `folder`."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [block.replace(folder, str(checkpoint)) for block in re.findall(r"```python\n(.*?)```", section, re.S)]


def functions(heading: str, folder: str, checkpoint: Path) -> dict[str, Any]:
    """What a section's Python defines."""
    found: dict[str, Any] = {"__name__": "documentation"}
    for block in code(heading, folder, checkpoint):
        exec(block, found)
    return found


def test_spark_in_arrow(tiny_checkpoints: dict[str, Path]) -> None:
    folder = tiny_checkpoints["encoder"]
    table = pa.table({"id": list(range(10)), "text": TEXTS})
    batches = functions("Spark", "/models/minilm", folder)["embed"](iter(table.to_batches(max_chunksize=4)))
    found = pa.Table.from_batches(batches)
    assert found.schema.field("embedding").type == pa.list_(pa.float32())
    assert found.column("id").to_pylist() == list(range(10))
    vectors = np.array(found.column("embedding").to_pylist(), np.float32)
    np.testing.assert_allclose(vectors, np.array(Pipeline(folder, "embed")(TEXTS)), rtol=2e-2, atol=2e-2)


def test_spark_in_pandas(tiny_checkpoints: dict[str, Path]) -> None:
    frame = pd.DataFrame({"id": range(10), "text": TEXTS})
    classify = functions("Spark", "/models/sst2", tiny_checkpoints["classifier"])["classify"]
    found = pd.concat(classify(iter([frame[:6], frame[6:]])))
    assert list(found.columns) == ["id", "label", "score"]
    assert set(found["label"]) <= {"no", "maybe", "yes"}
    assert found["score"].between(1 / 3, 1).all()


def test_the_script_of_memory(tiny_checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("the system does not tell")
    memory = functions("Memory", "/models/minilm", tiny_checkpoints["encoder"])["memory"]
    rss, pss, own = memory()
    assert rss >= pss >= own > 10_000


@pytest.mark.slow  # its processes start one after the other, and each loads torch
@pytest.mark.filterwarnings("ignore")  # of ray's own
def test_ray_data(tmp_path: Path, tiny_checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    ray: Any = pytest.importorskip("ray", reason="ray is missing; install it with: pip install 'ufbert[ray]'")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.chdir(tmp_path)
    folder = tiny_checkpoints["encoder"]
    pq.write_table(pa.table({"id": list(range(10)), "text": TEXTS, "other": TEXTS}), "articles.parquet")
    (program,) = code("Ray Data", "/models/minilm", folder)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        exec(program.replace("size=4", "size=1"), {"__name__": "documentation"})
    finally:
        ray.shutdown()
    found = pq.read_table("embeddings").sort_by("id")
    assert found.column("text").to_pylist() == TEXTS
    vectors = np.array(found.column("embedding").to_pylist(), np.float32)
    np.testing.assert_allclose(vectors, np.array(Pipeline(folder, "embed")(TEXTS)), rtol=2e-2, atol=2e-2)
