"""A time line as a PNG picture, drawn by matplotlib."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mer.cache import MerError, atomic_write
from mer.cache.release import install_line

from ..results.timeline import NOBODY, Timeline
from .style import LIGHT_COLOURS
from .timeline_points import blocks_of, points_of

DOTS_PER_INCH = 200
WIDTH_INCHES = 10.0
LANE_INCHES = 1.2


def write_timeline_plot(timeline: Timeline, path: Path) -> Path:
    """Write the time line as a PNG file: a lane per person, the probabilities of all classes stacked to 1.

    Raises
    ------
    MerError
        If matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MerError(f"PNG pictures need the library matplotlib; {install_line('timeline')}") from error
    people = timeline.people
    figure = Figure((WIDTH_INCHES, 0.8 + LANE_INCHES * len(people)), layout="constrained")
    FigureCanvasAgg(figure)
    lanes = np.atleast_1d(figure.subplots(len(people), 1, sharex=True))
    names = timeline.header.classes or (timeline.header.target,)
    colours = [LIGHT_COLOURS[place % len(LIGHT_COLOURS)] for place in range(len(names))]
    for lane, person in zip(lanes, people, strict=True):
        lane.set_ylabel(f"person {person}" if person else NOBODY)
        lane.set_xlim(0, timeline.seconds)
        for block in blocks_of(timeline.of_person(person)):
            seconds, values = points_of(block)
            if timeline.header.kind == "class":
                lane.set_ylim(0, 1)
                lane.stackplot(seconds, values.T, colors=colours, linewidth=0)
            else:
                for values_of_class, colour in zip(values.T, colours, strict=True):
                    lane.plot(seconds, values_of_class, color=colour)
    lanes[-1].set_xlabel("seconds")
    handles = [figure.gca().plot([], [], "s", color=colour)[0] for colour in colours]
    figure.legend(handles, names, loc="outside upper left", ncols=min(len(names), 8), frameon=False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return path
