"""Every error that HDTalk raises on purpose, and the exit code that the command line gives for it.

HDTalkError               1  the run failed
├── UsageError            2  an option or a combination of options makes no sense
├── InputError            3  a file that the user passed cannot be used
│   └── NoFaceError       3  it can be read, and shows no face
├── WeightsError          4  weights are missing, damaged, of the wrong kind, or refused as unsafe
├── ResourceError         5  memory or disk ran out
└── Stopped             130  the user stopped the command

A message is one line: what happened, in which file, what was expected, what to try.
"""

import errno

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # no space left, quota exceeded


class HDTalkError(Exception):
    exit_code = 1


class UsageError(HDTalkError):
    exit_code = 2


class InputError(HDTalkError):
    exit_code = 3


class NoFaceError(InputError):
    """The video can be read, and shows no face."""


class WeightsError(HDTalkError):
    exit_code = 4


class ResourceError(HDTalkError):
    exit_code = 5


class Stopped(HDTalkError):
    exit_code = 130
