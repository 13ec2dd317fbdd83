"""Settings for exported pages that are whole: with their figures, and asking no other host for anything.

    jupyter nbconvert --to html --config notebooks/offline_page.py notebooks/01_quickstart.ipynb

Of its own accord an exported notebook loads MathJax, RequireJS, Mermaid and the manager of widgets from
other hosts, and leaves plotly's figures out.
"""

import json

from plotly.io import from_json, to_html

_FIGURE = "application/vnd.plotly.v1+json"


def whole(notebook, resources):
    """Draw plotly's figures, with their script once in the page; drop the state of progress bars."""
    script = True
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if _FIGURE in output.get("data", {}):
                figure = from_json(json.dumps(output.data[_FIGURE]), skip_invalid=True)
                output.data["text/html"] = to_html(figure, include_plotlyjs=script, full_html=False)
                script = False
    notebook.metadata.pop("widgets", None)
    return notebook, resources


c = get_config()
c.HTMLExporter.preprocessors = [whole]
for loaded in ("mathjax_url", "require_js_url", "jquery_url", "mermaid_js_url", "mermaid_layout_elk_js_url"):
    setattr(c.HTMLExporter, loaded, "")
