"""What a folder on disk is; no model class is known here.

`locate_checkpoint` is imported on first use, since `folder` needs torch and the tokenizer beside it does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .folder import locate_checkpoint

__all__ = ["locate_checkpoint"]


def __getattr__(name: str) -> Any:
    if name == "locate_checkpoint":
        from .folder import locate_checkpoint

        return locate_checkpoint
    raise AttributeError(f"module 'ufbert.checkpoint' has no attribute {name!r}")
