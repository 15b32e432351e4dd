"""Whom the workers run as: --user and --group, in numbers, and becoming that.

The law: whoever drops keeps nothing, neither root's groups nor a way back.  It knows no
workers: the command asks whether it can be done, a worker does it before it loads the
application.
"""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass

from fastcluster.errors import AppLoadError, UsageError


@dataclass(frozen=True, slots=True)
class Identity:
    """A user and a group; groups: those that the user is in besides."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str


def identity(user: str | None, group: str | None) -> Identity | None:
    """Return what --user and --group ask for; None if they are not given, or are us already.

    Both are names or numbers.  A user alone brings its group and those that it is in, as
    systemd's User= does; a group alone replaces all of ours.  Raises UsageError if there
    is no such user or group, or we are not root, who alone can become another.
    """
    if user is None and group is None:
        return None
    entry = None if user is None else _user(user)
    uid = os.geteuid() if entry is None else entry.pw_uid
    if group is not None:
        gid = _group(group)
    elif entry is not None:
        gid = entry.pw_gid
    else:
        gid = os.getegid()
    if (uid, gid) == (os.geteuid(), os.getegid()) and os.getuid() == uid:
        return None
    name = user or group or ""
    if os.geteuid() != 0:
        flag = "--user" if user is not None else "--group"
        raise UsageError(
            f"{flag} {name} needs root, and this is user {os.geteuid()}: start as root, or leave "
            f"{flag} out"
        )
    named = entry is not None and entry.pw_name != ""
    groups = os.getgrouplist(entry.pw_name, gid) if named and entry is not None else [gid]
    return Identity(uid, gid, tuple(groups), name)


def _user(user: str) -> pwd.struct_passwd:
    try:
        if not user.isdigit():
            return pwd.getpwnam(user)
        return pwd.getpwuid(int(user))
    except (KeyError, OverflowError):
        pass
    if user.isdigit() and int(user) < 2**32 - 1:
        # Containers run users that nobody has given a name.
        return pwd.struct_passwd(("", "", int(user), int(user), "", "", ""))
    raise UsageError(f"there is no user {user}: make it, or mend --user")


def _group(group: str) -> int:
    if group.isdigit() and int(group) < 2**32 - 1:
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise UsageError(f"there is no group {group}: make it, or mend --group") from None


def drop(who: Identity) -> None:
    """Become a user for good: groups first, since a user that is not root cannot set them.

    Raises AppLoadError if the system forbids even root to do so.
    """
    try:
        os.setgroups(who.groups)
        os.setresgid(who.gid, who.gid, who.gid)
        os.setresuid(who.uid, who.uid, who.uid)
    except OSError as error:
        raise AppLoadError(
            f"a worker cannot become {who.name} ({error.strerror}): allow this container or "
            "service to change its user, or leave --user and --group out"
        ) from error


def check_python(who: Identity) -> None:
    """Raise AppLoadError if a user that we have become may not read Python's own library.

    What is imported from now on would be missing one by one, in words that puzzle people.
    """
    for path in (os.__file__, __file__):
        if not os.access(path, os.R_OK):
            raise AppLoadError(
                f"user {who.name} may not read {path}: install Python and fastcluster where they "
                "may, not in root's home"
            )


def give(path: str, who: Identity) -> None:
    """Give a file to a user.  Raises UsageError if the file system does not have it."""
    try:
        os.chown(path, who.uid, who.gid)
    except OSError as error:
        raise UsageError(f"{path} cannot be given to {who.name} ({error.strerror})") from error
