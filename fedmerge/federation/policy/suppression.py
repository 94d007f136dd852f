"""Small counts are told as 0, and so are enough others that nobody works them out from the total."""

from __future__ import annotations

from collections.abc import Sequence


def suppressed(counts: Sequence[int], below: int) -> list[int]:
    """``counts`` with 0 for each that is below ``below``, and for as many others as it takes.

    The total is known, so what is missing from it is the sum of what was hidden. It is over at least two
    classes and at least ``below`` images, or nothing is hidden; where the counts are too few for that, all
    are.
    """
    order = sorted((count, place) for place, count in enumerate(counts) if count)
    hidden = [entry for entry in order if entry[0] < below]
    if not hidden:
        return list(counts)
    for entry in order[len(hidden) :]:
        if len(hidden) > 1 and sum(count for count, _ in hidden) >= below:
            break
        hidden.append(entry)
    places = {place for _, place in hidden}
    return [0 if place in places else count for place, count in enumerate(counts)]
