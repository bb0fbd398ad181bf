"""What docs/scale.md says of Ray Data, on one machine."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ufbert import Pipeline

ray: Any = pytest.importorskip("ray", reason="ray is missing; install it with: pip install 'ufbert[ray]'")


@pytest.mark.filterwarnings("ignore")  # of ray's own
def test_map_batches_over_parquet(
    tmp_path: Path, tiny_checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    texts = [f"the fox number {n} jumps over the lazy dog" for n in range(60)]
    pq.write_table(pa.table({"id": list(range(60)), "text": texts}), tmp_path / "in.parquet")
    pipeline = Pipeline(tiny_checkpoints["encoder"], "embed", precision="float32")
    expected = np.array(pipeline(texts))

    class Embed:
        def __init__(self, pipeline: Pipeline) -> None:
            self.pipeline = pipeline

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            vectors: Any = self.pipeline(batch["text"].tolist())
            return {"id": batch["id"], "vector": np.stack(vectors)}

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        data = importlib.import_module("ray.data")
        rows = data.read_parquet(str(tmp_path / "in.parquet"))
        rows = rows.map_batches(Embed, fn_constructor_args=(pipeline,), batch_size=20, concurrency=1)
        rows.write_parquet(str(tmp_path / "out"))
    finally:
        ray.shutdown()
    found = pq.read_table(tmp_path / "out").sort_by("id")
    assert found.column("id").to_pylist() == list(range(60))
    np.testing.assert_allclose(np.array(found.column("vector").to_pylist(), np.float32), expected, rtol=1e-5, atol=1e-6)
