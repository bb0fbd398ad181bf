"""One corpus for all processes of a run: tokenised once, then handed out as the folder it lies in."""

from __future__ import annotations

import json
from pathlib import Path

from ufbert.errors import ConfigError
from ufbert.settings.sections import Settings
from ufbert.system.processes import MeetingPoint
from ufbert.text.corpus import PreparedCorpus, open_corpus, prepare_corpus
from ufbert.text.corpus_sources import corpus_name

__all__ = ["prepare_shared_corpus"]


def prepare_shared_corpus(settings: Settings, meeting: MeetingPoint) -> PreparedCorpus:
    """The run's corpus, of which process 0 tokenises the text while the others wait, however long it takes.

    The first process of a machine that does not see process 0's cache tokenises for that machine. Raises what
    `prepare_corpus` does, `ConfigError` if that gives other tokens, and `BackendError` if another process failed.
    """
    world = meeting.world
    with meeting.tell_failure():
        if world.leads:
            corpus = _prepare(settings)
        else:
            local_leader = world.rank - world.local_rank
            given = json.loads(meeting.take(_key(0 if world.local_rank == 0 else local_leader)))
            corpus = open_corpus(Path(given["folder"])) or _prepare(settings)
            if corpus.fingerprint != given["fingerprint"]:
                raise ConfigError(
                    f"process {world.rank} reads another corpus or tokenizer under "
                    f"{corpus_name(settings.data.corpus)} than process "
                    "0; give all machines the same files, or a data.cache_dir that they share"
                )
        meeting.leave(
            _key(world.rank), json.dumps({"folder": str(corpus.folder.absolute()), "fingerprint": corpus.fingerprint})
        )
    return corpus


def _prepare(settings: Settings) -> PreparedCorpus:
    return prepare_corpus(settings.data, settings.model.vocab_size, seed=settings.held_out_seed)


def _key(rank: int) -> str:
    return f"corpus of process {rank}"
