"""Honest timing: dense against fast feedforward, on inputs that reach many leaves."""
