"""Relay between a caller and a child process: signals down, the exit code up."""

from __future__ import annotations

import contextlib
import os
import signal

_NAMES = ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "ALRM", "CONT", "TSTP", "WINCH", "CHLD")
PASSED = frozenset(signal.Signals[f"SIG{name}"] for name in _NAMES)  # to be blocked before the child is forked


def relay(child: int, *, reap: bool = False) -> int:
    """Wait for the process `child` to end, and pass signals on to it.

    Returns its exit code, or 128 + n when signal n ended it. `reap`, for pid 1: also collect orphans. The caller must
    have blocked the signals `PASSED`. A signal from the kernel (si_code > 0: Ctrl-C, Ctrl-Z, a window's new size) goes
    to the whole foreground process group, so the child has it already; only a signal from a process is passed on.
    """
    while True:
        got = signal.sigwaitinfo(PASSED)
        if got.si_signo == signal.SIGCHLD:
            code = _collect(child, reap=reap)
            if code is not None:
                return code
            continue
        if got.si_code <= 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, got.si_signo)
        if got.si_signo == signal.SIGTSTP:
            os.kill(os.getpid(), signal.SIGSTOP)  # the caller's shell waits for this; pid 1 ignores it


def _collect(child: int, *, reap: bool) -> int | None:
    """Collect ended processes: with `reap` all of them, else only `child`.

    Returns the exit code of `child`, or 128 + n when signal n ended it; None if it has not ended.
    """
    while True:
        try:
            pid, status = os.waitpid(-1 if reap else child, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == 0:
            return None
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
