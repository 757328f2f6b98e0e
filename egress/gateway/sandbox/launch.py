"""Run a command inside a sandbox: confined to its network, with its terminal, signals and exit code passed through.

    egress run ─ waiter: setns(net), new mount and pid namespaces ─ init: pid 1, mounts ─ command: few capabilities

The command sees only its own processes, fresh /proc and /sys (read-only except its network's settings), its own
resolv.conf, and an empty /run, run_dir and state_dir: the host's D-Bus, container engines and our control socket are
not there. Root inside has only `CAPABILITIES`, and only in the sandbox's user namespace: it may configure its network,
and cannot enter the host's, mount over hidden directories, trace the init or load modules. Sockets are of the
families a network namespace confines: no AF_VSOCK, no io_uring, none at all for i386 programs. When the command ends,
the kernel ends all processes it left; when `egress run` is killed, all processes end.

Not confined: it is a network sandbox. Files and devices are the host's, so root inside can change the host's files,
e.g. leave a cron job that runs outside, or write to its disks. Unix sockets outside the hidden directories can be
connected to. The terminal is shared, but cannot be typed into (TIOCSTI). CPU and memory have no limits. For a program
that would use this, give an account, or run it in a container or virtual machine and attach that.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from egress.config import Config
from egress.errors import EgressError, InputError
from egress.gateway.kernel import linux
from egress.gateway.sandbox.account import Account
from egress.gateway.sandbox.relay import PASSED, relay
from egress.gateway.sandbox.sandbox import Sandbox

NOT_EXECUTABLE, NOT_FOUND = 126, 127  # env(1), POSIX shell
# capabilities(7): CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID NET_BIND_SERVICE NET_ADMIN NET_RAW SYS_CHROOT
CAPABILITIES = frozenset({0, 1, 3, 4, 5, 6, 7, 10, 12, 13, 18})
_WRITABLE = "/proc/sys/net"
_READ_ONLY = ("/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/sysrq-trigger", "/proc/acpi")


class _Job(NamedTuple):
    """The parameters of one launch, for all its processes."""

    sandbox: Sandbox
    command: Sequence[str]
    config: Config
    account: Account | None
    root: Path
    mask: set[int | signal.Signals]  # signals that were blocked before, and are blocked again in the command


def launch(
    sandbox: Sandbox, command: Sequence[str], config: Config, account: Account | None = None, root: Path = Path("/")
) -> int:
    """Run `command` to its end. Returns its exit code, 128 + n after signal n, 126 or 127 if it cannot be executed.

    Call it from the main thread of a process without other threads: it forks, and takes signals by waiting for them.
    `root` is the root directory of the process that made the sandbox, whose mounts may be its own. Raises EgressError
    when the sandbox cannot be entered.
    """
    if not command:
        raise InputError("no command to run: give one after --")
    terminal = _foreground_terminal()
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED)
    job = _Job(sandbox, command, config, account, root, old_mask)
    try:
        errors, report = os.pipe()
        waiter = os.fork()
        if waiter == 0:
            os.close(errors)
            _child(report, lambda: _wait_inside(job, report))
        os.close(report)
        with os.fdopen(errors, "rb") as pipe:
            trouble = pipe.read(500).decode("utf-8", "replace")
        code = relay(waiter)
    finally:
        if terminal is not None:
            _take_back(terminal)
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
    if trouble:
        raise EgressError(trouble)
    return code


def _wait_inside(job: _Job, report: int) -> int:
    """Run the waiter: enter the network, fork the init, stay outside its pid namespace and wait for it."""
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    namespace = os.open(job.root / "run/netns" / job.sandbox.netns, os.O_RDONLY | os.O_CLOEXEC)
    users = linux.owner(namespace)
    linux.setns(namespace, linux.CLONE_NEWNET)
    linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWPID)
    init = os.fork()
    if init == 0:
        _child(report, lambda: _init(job, users, report))
    os.close(report)
    return relay(init)


def _init(job: _Job, users: int, report: int) -> int:
    """Run pid 1 of the sandbox. It has only the standard files open, and no process inside may trace it.

    Returns the exit code. Raises OSError.
    """
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    if os.getppid() != 0:  # the waiter lives in another pid namespace, where we cannot see it
        raise OSError(0, "not the first process of a pid namespace")
    directory = Path.cwd()
    _mounts(job.sandbox, job.config)
    try:
        os.chdir(directory)  # again, by name: the old one could be below a hidden directory
    except OSError:
        os.chdir("/")
    main = os.fork()
    if main == 0:
        _child(report, lambda: _execute(job, users, report))
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    return relay(main, reap=True)


def _mounts(sandbox: Sandbox, config: Config) -> None:
    """Mount what the command sees in place of the host's directories. Raises OSError."""
    linux.mount("none", "/", "", linux.MS_REC | linux.MS_PRIVATE)
    resolver, target = Path(f"/etc/netns/{sandbox.netns}/resolv.conf"), Path("/etc/resolv.conf")
    strict = linux.MS_NOSUID | linux.MS_NODEV
    for hidden in dict.fromkeys((Path("/run"), config.run_dir.resolve(), config.state_dir.resolve())):
        if hidden.is_dir():
            linux.mount("egress", str(hidden), "tmpfs", strict, "mode=755,size=64m")
    if target.is_symlink():  # it may lead into /run, which is empty now
        real = target.resolve()
        real.parent.mkdir(parents=True, exist_ok=True)
        real.touch()
    if target.exists() and resolver.exists():
        linux.mount(str(resolver), str(target), "", linux.MS_BIND)
    linux.mount("proc", "/proc", "proc", strict | linux.MS_NOEXEC)
    linux.mount("sysfs", "/sys", "sysfs", strict | linux.MS_NOEXEC | linux.MS_RDONLY)
    for path in _READ_ONLY:
        if Path(path).exists():
            linux.mount(path, path, "", linux.MS_BIND)
            if _WRITABLE.startswith(path + "/"):
                linux.mount(_WRITABLE, _WRITABLE, "", linux.MS_BIND)
            linux.mount("none", path, "", linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY | strict | linux.MS_NOEXEC)


def _execute(job: _Job, users: int, report: int) -> int:
    """Enter the sandbox's user namespace, drop privileges, and become the command. Raises OSError.

    Returns only if the command cannot be executed: NOT_FOUND or NOT_EXECUTABLE, after a line on stderr. The order
    matters: the change of user needs capabilities.
    """
    linux.setns(users, linux.CLONE_NEWUSER)
    command, account = job.command, job.account
    environment = dict(os.environ)
    if account:
        os.setgroups(account.groups)
        os.setresgid(account.gid, account.gid, account.gid)
        environment |= account.environment
    linux.limit_bounding(CAPABILITIES)
    if account:
        os.setresuid(account.uid, account.uid, account.uid)
    linux.limit_capabilities(frozenset() if account and account.uid else CAPABILITIES)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.limit_calls()  # the terminal is shared: keys typed into it would run in the caller's shell
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and ignoring is inherited
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, job.mask)
    # An inherited file would be a way out, e.g. a socket of the host's network. `report` closes itself at exec.
    os.closerange(3, report)
    os.closerange(report + 1, os.sysconf("SC_OPEN_MAX"))
    try:
        os.execvpe(command[0], list(command), environment)
    except (FileNotFoundError, NotADirectoryError):
        os.write(2, f"egress: {command[0]}: command not found\n".encode("utf-8", "replace"))
        return NOT_FOUND
    except OSError as error:
        os.write(2, f"egress: {command[0]}: cannot execute: {error.strerror}\n".encode("utf-8", "replace"))
        return NOT_EXECUTABLE


def _child(report: int, body: Callable[[], int]) -> NoReturn:
    """Run `body` in a forked child, which always ends here. An error is reported to `launch`."""
    code = 1
    try:
        code = body()
    except (OSError, EgressError) as error:
        os.write(report, f"cannot enter the sandbox: {error}".encode("utf-8", "replace"))
    finally:
        os._exit(code)


def _foreground_terminal() -> int | None:
    """Return standard input if it is a terminal with this process group in the foreground, else None."""
    try:
        return 0 if os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp() else None
    except OSError:
        return None


def _take_back(terminal: int) -> None:
    """Make this process group the foreground of the terminal again.

    A shell inside may have given the terminal to a process group that is gone; then the next use would stop this
    process.
    """
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    with contextlib.suppress(OSError):
        os.tcsetpgrp(terminal, os.getpgrp())
    signal.pthread_sigmask(signal.SIG_SETMASK, old)
