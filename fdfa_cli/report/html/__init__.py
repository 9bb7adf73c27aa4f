"""The report as one page of HTML that needs nothing else: no network, no other file.

`page_figures` draws the plots, `summary` and `run_grids` make the tables, `reproduce` says how to train a row
again, and `page` fills the template `page.html`.
"""

from fdfa_cli.report.html.page import page

__all__ = ["page"]
