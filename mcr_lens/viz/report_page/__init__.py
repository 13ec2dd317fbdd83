"""One self-contained page of saved results: words first, then figures, an example, tables, how it was made.

``runs.py`` reads what was saved, ``profiles.py`` and ``results.py`` choose what is said and shown of it as
``content.py`` has it, ``example.py`` looks at one prompt, ``made.py`` says how the runs were made, and
``page.py`` writes the page. Whatever a file says goes through ``safe.py``. Nothing is measured here but the
example.
"""

from mcr_lens.viz.report_page.page import check_page, report

__all__ = ["check_page", "report"]
