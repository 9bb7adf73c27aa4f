"""Figures of stored runs, with matplotlib.

A figure is a function in a file of this package and a line in `PLOTS`. It is given groups of runs and a
width, and returns a `Picture`, or raises `DoesNotApply` with the reason.
"""

from fdfa_cli.report.plots.base import DoesNotApply, Picture, Plot
from fdfa_cli.report.plots.curves import accuracy_over_time, learning_curves
from fdfa_cli.report.plots.diagnostics import alignment, variance
from fdfa_cli.report.plots.plot_data import PlotData
from fdfa_cli.report.plots.ranking import ranking
from fdfa_cli.report.plots.sweeps import interaction, response

#: In the order of a report.
PLOTS = (
    Plot("ranking", "Results at the end of training", ranking),
    Plot("learning-curves", "Learning curves", learning_curves),
    Plot("accuracy-over-time", "Accuracy against training time", accuracy_over_time),
    Plot("alignment", "Alignment over training", alignment),
    Plot("variance", "Variance of the gradient estimate", variance),
    Plot("sweep-response", "Response to swept parameters", response),
    Plot("sweep-interaction", "Interaction of swept parameters", interaction),
)

__all__ = ["PLOTS", "DoesNotApply", "Picture", "Plot", "PlotData"]
