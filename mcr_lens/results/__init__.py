"""Results: labelled data with a summary, sentences and tables, and one file on disk; no torch in here."""

from mcr_lens.results.describe import caveats, findings
from mcr_lens.results.io import atomic_write, check_place, load_dataset, save_dataset
from mcr_lens.results.profile import Profile
from mcr_lens.results.result import Result, load

__all__ = [
    "Profile",
    "Result",
    "atomic_write",
    "caveats",
    "check_place",
    "findings",
    "load",
    "load_dataset",
    "save_dataset",
]
