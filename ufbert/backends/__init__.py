"""The backends of CMM, one module each, behind the `Backend` protocol of `ufbert.cmm`."""
