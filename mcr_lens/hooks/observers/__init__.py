"""Observers: hooks that only read, and reduce inside the hook."""
