"""Loading data sets of the Hugging Face hub without `datasets`' own noise, and with one-line errors, at once."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ufbert.errors import DataError

__all__ = ["quiet_loading"]

SECONDS = 10.0
"""For the hub's first answer."""


@contextmanager
def quiet_loading(what: str, advice: str, repository: str) -> Iterator[None]:
    """Silence `datasets` for the block, and turn its errors into `WHAT cannot be loaded: ...; ADVICE`.

    Where the hub does not answer for `repository`, what was fetched before serves, without a further try: `datasets`
    would try six times, over half a minute.
    """
    import datasets
    import huggingface_hub.constants
    import huggingface_hub.utils
    from huggingface_hub.errors import HfHubHTTPError

    missing, unreachable = (None, None) if Path(repository).exists() else _problem(repository)
    if missing is not None:
        raise DataError(f"{what} cannot be loaded: {missing}")
    loggers = (datasets.utils.logging, huggingface_hub.utils.logging)
    levels = [logger.get_verbosity() for logger in loggers]
    bars = not datasets.are_progress_bars_disabled()
    modes = (datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE)
    for logger in loggers:
        logger.set_verbosity_error()
    datasets.disable_progress_bars()
    if unreachable is not None:
        datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    except DataError:
        raise
    except (
        OSError,
        ValueError,
        RuntimeError,
        datasets.exceptions.DatasetsError,
        *HfHubHTTPError.__bases__,  # the root of the errors of whichever HTTP library the hub's client uses
    ) as error:
        cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else None
        reason = unreachable or " ".join(str(cause or error).split())[:300].rstrip(".")
        raise DataError(f"{what} cannot be loaded: {reason}; {advice}") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()
        datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE = modes


@functools.cache
def _problem(repository: str) -> tuple[str | None, str | None]:
    """(why the hub does not give a data set, why it cannot be reached); None for what is not so."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    # The roots of the errors of whichever HTTP library the hub's client uses; requests' are OSErrors.
    unreachable: tuple[type[Exception], ...] = (OSError, *HfHubHTTPError.__bases__)
    try:
        HfApi().dataset_info(repository, timeout=SECONDS)
    except GatedRepoError:
        return "a gated data set; ask for access on its page of the hub, then log in with: hf auth login", None
    except RepositoryNotFoundError:
        return (
            "no such folder, and no such data set on the Hugging Face hub; check the name, or log in with "
            "hf auth login if it is private",
            None,
        )
    except OfflineModeIsEnabled:
        return None, "not fetched before, and HF_HUB_OFFLINE is set, which keeps it from the hub"
    except HFValidationError:
        return None, None  # datasets says what it is
    except unreachable as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return None, f"not fetched before, and the hub cannot be reached ({reason}); check the proxy (HTTPS_PROXY)"
    return None, None
