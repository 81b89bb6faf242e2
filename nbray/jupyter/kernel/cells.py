"""Which cell is running: the label that its tasks and events carry.

Called by:  jupyter.kernel (registers the two callbacks with IPython's events).
Imports:    nbray.api.session, IPython.
Never:      asks for a cell's source, or raises: an error here would show under every cell.
"""

from __future__ import annotations

from IPython.core.interactiveshell import ExecutionInfo, ExecutionResult, InteractiveShell

from nbray.api import session


class CellStamp:
    """Follows one shell: ``In[3]`` while the third cell runs, nothing in between.

    Code that a cell runs through the shell (``%run``, ``%%time``) keeps the label of that cell.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._cell: ExecutionInfo | None = None

    def register(self) -> None:
        """Begin to follow the shell."""
        self._shell.events.register("pre_run_cell", self.before)
        self._shell.events.register("post_run_cell", self.after)

    def unregister(self) -> None:
        """Stop following; work that is submitted from now on has no label."""
        self._shell.events.unregister("pre_run_cell", self.before)
        self._shell.events.unregister("post_run_cell", self.after)
        session.set_current_cell("")

    def before(self, info: ExecutionInfo) -> None:
        """A cell begins. Without history it has no number: it is code that another one runs."""
        if info.store_history:
            self._cell = info
            # Not execution_count: by now IPython 9 has counted on to the next cell, IPython 8 has not.
            session.set_current_cell(f"In[{self._shell.displayhook.prompt_count}]")

    def after(self, result: ExecutionResult | None) -> None:
        """A cell ended; an interrupted one may have no result."""
        if result is None or result.info is self._cell:
            self._cell = None
            session.set_current_cell("")
