"""Encoders of several frameworks, each in a process of its own, timed in turns.

A framework's idle threads may spin for a while on the cores that another one needs, and none gives its memory
back; so each implementation gets a process, of which one computes at a time.
"""
