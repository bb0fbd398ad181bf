"""The encoder benchmark's workers without processes of their own, for tests."""

from __future__ import annotations

import json
import threading
import warnings
from typing import Any

from ufbert.benchmark.models.peers.process import WorkerError
from ufbert.benchmark.models.peers.worker import Server, memory
from ufbert.errors import UfbertError


class InProcess:
    """A worker without a process of its own: the same server, called."""

    # The processes load at the same time. In one, transformers' `from_pretrained` must not run twice at once: each
    # call puts an empty `tie_weights` into its base class for a while, and the later one would leave it there.
    turn = threading.Lock()

    def __init__(self, threads: int, *, ours: bool) -> None:
        self.server = Server()
        self.idle_cpu_seconds = 0.0
        self.resident_bytes = self.peak_bytes = memory()["resident_bytes"]

    def ask(self, do: str, *, limit: float = 0.0, **request: Any) -> dict[str, Any]:
        with self.turn, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                reply = self.server.answer(json.loads(json.dumps({"do": do, **request})))
            except UfbertError as error:  # of which a process leaves its last line
                raise WorkerError(f"{type(error).__name__}: {error}") from error
        return json.loads(json.dumps(reply))  # type: ignore[no-any-return]

    def close(self) -> None:
        pass

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass
