"""Loading data sets of the Hugging Face hub without `datasets`' own noise, and with one-line errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ufbert.errors import DataError

__all__ = ["quiet_loading"]


@contextmanager
def quiet_loading(what: str, advice: str) -> Iterator[None]:
    """Silence `datasets` for the block, and turn its errors into `WHAT cannot be loaded: ...; ADVICE`."""
    import datasets
    import huggingface_hub.utils
    from huggingface_hub.errors import HfHubHTTPError

    loggers = (datasets.utils.logging, huggingface_hub.utils.logging)
    levels = [logger.get_verbosity() for logger in loggers]
    bars = not datasets.are_progress_bars_disabled()
    for logger in loggers:
        logger.set_verbosity_error()
    datasets.disable_progress_bars()
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
        reason = " ".join(str(cause or error).split())[:300].rstrip(".")
        raise DataError(f"{what} cannot be loaded: {reason}; {advice}") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()
