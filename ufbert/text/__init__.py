"""Text in: files and hub data to rows, rows to tokens, tokens to packed and masked blocks."""
