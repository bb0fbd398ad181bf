"""One corpus for several processes: who tokenises, and what the others read."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch.distributed as dist

from ufbert.errors import BackendError, ConfigError, DataError
from ufbert.pretraining.shared_corpus import prepare_shared_corpus
from ufbert.settings.sections import DataSettings, Settings, small_model
from ufbert.system.processes import MeetingPoint, World
from ufbert.text.corpus import PreparedCorpus, open_corpus, prepare_corpus


@pytest.fixture
def settings(corpus: Path, tmp_path: Path) -> Settings:
    """Of the tiny corpus, with a cache of its own."""
    data = DataSettings(corpus=str(corpus), cache_dir=str(tmp_path / "cache"), sequence_length=16, min_frequency=2)
    return Settings(model=small_model(), data=data)


@pytest.fixture
def tokenised(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cache folders that corpora were prepared in, one entry for each time."""
    folders: list[str] = []

    def prepare(data: DataSettings, vocab_size: int, *, seed: int = 0) -> PreparedCorpus:
        folders.append(data.cache_dir)
        return prepare_corpus(data, vocab_size, seed=seed)

    monkeypatch.setattr("ufbert.pretraining.shared_corpus.prepare_corpus", prepare)
    return folders


def with_cache(settings: Settings, folder: Path) -> Settings:
    return replace(settings, data=replace(settings.data, cache_dir=str(folder)))


def prepare_all(local_ranks: list[int], by_rank: list[Settings]) -> list[PreparedCorpus | Exception]:
    """What each process gets; threads stand for processes."""
    store = dist.HashStore()  # type: ignore[attr-defined]

    def prepare(rank: int) -> PreparedCorpus | Exception:
        meeting = MeetingPoint(World())
        meeting.world, meeting.store = World(rank, len(local_ranks), local_ranks[rank]), store
        try:
            return prepare_shared_corpus(by_rank[rank], meeting)
        except Exception as error:  # noqa: BLE001  the outcome that is asked for
            return error

    with ThreadPoolExecutor(len(local_ranks)) as threads:
        return list(threads.map(prepare, range(len(local_ranks))))


def test_one_process_tokenises_and_the_others_open_its_folder(settings: Settings, tokenised: list[str]) -> None:
    corpora = prepare_all([0, 1, 2], [settings] * 3)
    assert len(tokenised) == 1
    assert all(isinstance(corpus, PreparedCorpus) for corpus in corpora), corpora
    first = corpora[0]
    assert isinstance(first, PreparedCorpus)
    for corpus in corpora:
        assert isinstance(corpus, PreparedCorpus)
        assert (corpus.folder, corpus.fingerprint) == (first.folder, first.fingerprint)
        assert corpus.tokenizer.to_str() == first.tokenizer.to_str()
        assert (corpus.train[:] == first.train[:]).all()
        assert (corpus.validation[:] == first.validation[:]).all()


def test_a_machine_with_a_cache_of_its_own_tokenises_once_for_itself(
    settings: Settings, tokenised: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Processes 2 and 3 are on a second machine, where the first one's folder is not to be seen.
    there = with_cache(settings, tmp_path / "there")
    thread = threading.local()
    take = MeetingPoint.take

    def take_on_a_machine(self: MeetingPoint, key: str) -> str:
        thread.machine = self.world.rank // 2
        return take(self, key)

    def open_what_is_seen(folder: Path) -> PreparedCorpus | None:
        is_there = tmp_path / "there" in folder.parents
        return open_corpus(folder) if is_there == bool(thread.machine) else None

    monkeypatch.setattr(MeetingPoint, "take", take_on_a_machine)
    monkeypatch.setattr("ufbert.pretraining.shared_corpus.open_corpus", open_what_is_seen)
    corpora = prepare_all([0, 1, 0, 1], [settings, settings, there, there])
    assert all(isinstance(corpus, PreparedCorpus) for corpus in corpora), corpora
    assert sorted(tokenised) == sorted([settings.data.cache_dir, there.data.cache_dir])
    folders = [corpus.folder for corpus in corpora if isinstance(corpus, PreparedCorpus)]
    assert folders[0] == folders[1] != folders[2] == folders[3]


def test_a_corpus_that_cannot_be_read_ends_all(settings: Settings) -> None:
    absent = replace(settings, data=replace(settings.data, corpus="absent.txt"))
    first, second = prepare_all([0, 1], [absent, absent])
    assert isinstance(first, DataError)
    assert isinstance(second, BackendError)
    assert str(second) == "another process of this run has failed; its message says why"


def test_other_tokens_are_refused(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ufbert.pretraining.shared_corpus.open_corpus", lambda folder: None)  # no shared cache
    elsewhere = with_cache(replace(settings, data=replace(settings.data, lowercase=False)), tmp_path / "elsewhere")
    _, second = prepare_all([0, 0], [settings, elsewhere])
    assert isinstance(second, ConfigError)
    assert "process 1 reads another corpus or tokenizer under" in str(second)
    assert str(second).endswith("give all machines the same files, or a data.cache_dir that they share")
