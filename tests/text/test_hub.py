"""Data sets of a hub that does not give them: one line, after one question."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

from ufbert.errors import DataError
from ufbert.text.corpus_sources import parse_corpus

RESPONSE = SimpleNamespace(headers={}, status_code=401, request=None)


@pytest.mark.parametrize(
    ("number", "error", "message"),
    [
        (
            1,
            OfflineModeIsEnabled("offline"),
            "not fetched before, and HF_HUB_OFFLINE is set, which keeps it from the hub;",
        ),
        (
            2,
            OSError("407 Proxy Authentication Required\nmore"),
            "not fetched before, and the hub cannot be reached (407 Proxy Authentication Required); check the proxy",
        ),
        (
            3,
            RepositoryNotFoundError("no", response=RESPONSE),  # type: ignore[arg-type]
            "no such folder, and no such data set on the Hugging Face hub; check the name, or log in with hf auth ",
        ),
        (
            4,
            GatedRepoError("no", response=RESPONSE),  # type: ignore[arg-type]
            "a gated data set; ask for access on its page of the hub, then log in with: hf auth login",
        ),
    ],
)
def test_a_data_set_that_is_not_to_be_had_is_one_line(
    monkeypatch: pytest.MonkeyPatch, number: int, error: Exception, message: str
) -> None:
    import datasets
    import huggingface_hub.constants

    asked = []

    def dataset_info(self: HfApi, name: str, **options: object) -> None:
        asked.append(name)
        raise error

    monkeypatch.setattr(HfApi, "dataset_info", dataset_info)
    modes = (datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE)
    (source,) = parse_corpus([f"hub:someone/private{number}"], "text", streaming=True)
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            source.fingerprint()
        assert str(caught.value).startswith(f"hub:someone/private{number}@train: cannot be loaded: {message}")
        assert "\n" not in str(caught.value)
    assert asked == [f"someone/private{number}"]
    assert modes == (datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE)
