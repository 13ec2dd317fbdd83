"""Views that stand in a page by themselves: no file beside them, no request, the large script once a page."""

import base64
import gzip
import sys
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from mcr_lens.errors import InputError
from mcr_lens.results import atomic_write
from mcr_lens.results.html import templates
from mcr_lens.validate import plain_path
from mcr_lens.viz._tokens import visible


class View:
    """Something to look at in a notebook, a page or a report. Jupyter shows it as a cell's value.

    The heads are drawn by circuitsvis, half a megabyte of packed script. A page needs it once: in a
    notebook the first cell that shows such a view carries it, and so does that cell when it runs again.
    Where every output is a page of its own (Colab), and in VS Code, every view carries it.

    Example:
        >>> view = View("A title", "<p>body</p>")
        >>> "body" in view.html(), view.page().startswith("<!doctype html>")
        (True, True)
    """

    def __init__(self, title: str, body: str, *, draws_heads: bool = False) -> None:
        self.title = title
        self._body = f'<div class="mcr-title">{escape(title)}</div>{body}'
        self._draws_heads = draws_heads

    def html(self, *, script: bool = True) -> str:
        """The view as a piece of HTML.

        Args:
            script: carry the script that draws heads. In a page with several views, one has to; the order
                does not matter.
        """
        packed = f'"{_packed_script()}"' if script and self._draws_heads else "null"
        return (
            f'<div class="mcr-view"><style>{_file("view.css")}</style>\n{self._body}\n'
            f"<script>{_file('view.js').strip()}({packed});</script></div>"
        )

    def page(self) -> str:
        """The view as a whole page, which works without a network."""
        return fill("view.html", title=self.title, view=Markup(self.html())) + "\n"

    def save(self, path: str | Path) -> Path:
        """Write ``page()`` to a file; returns its path.

        Raises:
            InputError: for a name that says another kind of file.
        """
        path = plain_path(path)
        if path.suffix.lower() not in (".html", ".htm"):
            raise InputError(f"{path.name}: a view is a page; name it {path.stem}.html")
        with atomic_write(path) as partial:
            partial.write_text(self.page(), encoding="utf-8")
        return path

    def _repr_html_(self) -> str:
        return self.html(script=self._draws_heads and _here_carries_script())

    def __repr__(self) -> str:
        return f"View({self.title!r}): the value of a notebook cell, or .save('view.html')"


# The notebook cell that carries the script, and which of its executions did, in this kernel.
_carrier: tuple[str | None, int] | None = None


def _here_carries_script() -> bool:
    """Whether the view that is about to be shown has to bring the script along.

    A cell that runs again replaces its output, so the carrying cell has to carry again.
    """
    global _carrier
    shell = _shell()
    parent = shell.get_parent() if hasattr(shell, "get_parent") else {}
    cell = parent.get("metadata", {}).get("cellId")
    execution = 0 if shell is None else shell.execution_count
    if "google.colab" in sys.modules or (cell or "").startswith("vscode-"):
        return True
    if _carrier is None or (cell is not None and _carrier[0] == cell and _carrier[1] != execution):
        _carrier = (cell, execution)
        return True
    return False


def _shell() -> Any:
    """The IPython that this runs in, if it does."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()


def fill(name: str, **values: Any) -> str:
    """A template beside this file with these values, escaped."""
    environment = templates("mcr_lens.viz")
    environment.filters["visible"] = visible
    return environment.get_template(name).render(values)


@cache
def _file(name: str) -> str:
    return files("mcr_lens.viz").joinpath(name).read_text(encoding="utf-8")


@cache
def _packed_script() -> str:
    """Circuitsvis' script, compressed, as text that is safe anywhere in a page."""
    source = files("circuitsvis").joinpath("dist/cdn/iife.js").read_bytes()
    # Its last line names a file beside it that a browser would ask for.
    source = source.split(b"\n//# sourceMappingURL")[0]
    return base64.b64encode(gzip.compress(source, mtime=0)).decode("ascii")
