"""Figures as files: SVG for papers and pages, PNG for everything else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fdfa_cli.errors import UsageError
from fdfa_cli.report.plots.base import DoesNotApply, Plot
from fdfa_cli.report.plots.plot_data import PlotData
from fdfa_cli.report.plots.style import house_style
from fdfa_cli.storage import atomic_write, foreign_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Inches: a page of text across, at the size of a caption's letters.
WIDTH = 7.5
#: A format, and what to keep out of its file: dates and versions would make two reports differ.
FORMATS = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}


def save(plot_data: PlotData, folder: Path, plots: tuple[Plot, ...]) -> list[str]:
    """Draw into `folder`, one file a figure and format; returns a line on each figure.

    A figure that does not apply leaves no file, not even one of an earlier report. The same runs give the
    same bytes. Raises `UsageError` where the folder cannot be written to.
    """
    lines = []
    try:
        foreign_folder(folder)
        for plot in plots:
            files = {format: folder / f"{plot.name}.{format}" for format in FORMATS}
            try:
                with house_style():
                    picture = plot.draw(plot_data, WIDTH)
                    for format, file in files.items():
                        atomic_write(file, _writer(picture.figure, format))
            except DoesNotApply as reason:
                for file in files.values():
                    file.unlink(missing_ok=True)
                lines.append(f"{plot.name} not drawn: {reason}")
            else:
                lines.append(f"{folder / plot.name}.{{{','.join(FORMATS)}}}: {picture.caption}")
    except OSError as error:
        raise UsageError(f"cannot write figures to {folder}: {error.strerror}") from error
    return lines


def _writer(figure: Figure, format: str) -> Callable[[BinaryIO], None]:
    return lambda file: figure.savefig(file, format=format, facecolor="white", metadata=FORMATS[format])
