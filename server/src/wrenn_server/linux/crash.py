"""Points at which a program dies when it is told to, so that tests can see what the next one makes of what it left.

`WRENN_CRASH_AT=pause.sealed` has the program kill itself when it passes the point of that name for the first time,
`WRENN_CRASH_AT=pause.sealed:3` for the third. Nothing is flushed, closed or answered: it is SIGKILL. Each name stands at
one place in the source, as a literal; `tests/faults/` finds all of them there, and has each one passed.
"""

import itertools
import os
import signal

VARIABLE = "WRENN_CRASH_AT"

_name, _, _number = os.environ.get(VARIABLE, "").partition(":")
_last = int(_number or 1)
_passings = itertools.count(1)


def crash_point(name: str) -> None:
    """Costs a comparison of two strings when it is not the one.

    :param name: `<operation>.<what has just been done>`
    """
    if name == _name and next(_passings) == _last:
        os.kill(os.getpid(), signal.SIGKILL)
