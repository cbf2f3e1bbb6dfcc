"""The script that draws the charts: BokehJS, which Bokeh's package has in it."""

from __future__ import annotations

from functools import cache

from fasttrack.runs.packages import require


@cache
def library_script() -> str:
    """Return its source, some 1 MB.

    Raises:
        FasttrackError: bokeh is not installed; the message says how to install it.
    """
    require("bokeh", "a page for a browser")
    from bokeh.resources import Resources

    resources = Resources(mode="inline", minified=True, components=["bokeh", "bokeh-api"])
    return "\n".join(resources.js_raw)
