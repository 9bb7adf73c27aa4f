"""The report as one page of HTML that needs nothing else: no network, no other file.

`figures` puts plots into it, `summary` and `listing` make its tables, `reproduce` says how to get a row
again, `page` fills `page.html`.
"""

from fdfa_cli.report.html.page import page

__all__ = ["page"]
