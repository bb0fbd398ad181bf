"""Shapes that the conversion chooses itself, one for each layer: by the error they make and the time they take."""
