"""Points at which a program dies when it is told to, so that tests can see what the next one makes of what it left.

`WRENN_CRASH_AT=pause.sealed` has the program kill itself when it passes the point of that name for the first time,
`WRENN_CRASH_AT=pause.sealed:3` for the third. Nothing is flushed, closed or answered: it is SIGKILL. With
`WRENN_CRASH_BY=SIGSTOP` it stands still there until it gets a SIGCONT, so that something else can be made to fail under
it. Each name stands at one place in the source, as a literal; `tests/faults/` finds all of them there, and has each one
passed.
"""

import itertools
import os
import signal

VARIABLE, SIGNAL = "WRENN_CRASH_AT", "WRENN_CRASH_BY"

_name, _, _number = os.environ.get(VARIABLE, "").partition(":")
_last = int(_number or 1)
_passings = itertools.count(1)
_signal = signal.Signals[os.environ.get(SIGNAL, "SIGKILL")]


def crash_point(name: str) -> None:
    """Costs a comparison of two strings when it is not the one.

    :param name: `<operation>.<what has just been done>`
    """
    if name == _name and next(_passings) == _last:
        os.kill(os.getpid(), _signal)
