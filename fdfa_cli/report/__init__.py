"""Stored runs -> something to look at. Trains nothing, imports no torch.

`tables` makes neutral tables of runs; `terminal` lays them out as text, `export` writes them for other
programs. `plots` draws figures, and `html` puts tables and figures on one page.
"""
