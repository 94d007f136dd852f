"""A progress bar with the time left; silent where nobody is looking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Show = Callable[[str, float, float], None]


@contextmanager
def progress_bar(console: Console, quiet: bool = False) -> Iterator[Show | None]:
    """Yield a callback ``(stage, done, total)`` that draws a bar, or None off a terminal.

    A stage may name its part after a comma ("training, north"); the bar and its clock run over the stage.
    """
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("preparing", total=None)
        stage = ""

        def show(text: str, done: float, total: float) -> None:
            nonlocal stage
            begun = text.split(", ")[0]
            if begun != stage:
                stage = begun
                bar.reset(task, total=total)
            bar.update(task, description=text, completed=done, total=total)

        yield show
