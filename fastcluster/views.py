"""Views: templates of a folder, made into text by Jinja2.

The law: a production view is read once and kept, a development view is read anew
for every answer.  Jinja2 is asked for only when the first view is rendered.  It
knows nothing of requests and responses.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from fastcluster.errors import UsageError


class Views:
    """The templates below a folder; caches: keep what was read.

    Text is escaped for HTML in views called .html, .htm, .xml and .xhtml.
    Raises UsageError if Jinja2 is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str], caches: bool) -> None:
        try:
            import jinja2
        except ImportError:
            raise UsageError(
                "response.render() needs Jinja2: pip install 'fastcluster-server[templates]'"
            ) from None
        self.folder = os.path.abspath(folder)
        self._not_found = jinja2.TemplateNotFound
        self._jinja = jinja2.Environment(
            loader=jinja2.FileSystemLoader(self.folder),
            autoescape=jinja2.select_autoescape(("html", "htm", "xml", "xhtml")),
            cache_size=400 if caches else 0,
            auto_reload=False,
        )

    def render(self, name: str, data: Mapping[str, Any]) -> str:
        """Return the text of a view; UsageError if there is none of that name.

        Errors inside of the template are Jinja2's own.
        """
        try:
            return self._jinja.get_template(name).render(data)
        except self._not_found as error:
            raise UsageError(
                f"there is no view {error.name!r} in {self.folder}: "
                'app.set("views", folder) says where they are'
            ) from None
